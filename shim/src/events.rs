//! What happens to tasks, told to containerd: in the order in which it was published, each event once.
//!
//! One task has the connection. An event that containerd does not take (it is being started again) is offered some more
//! times before it is dropped; those behind it wait.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::log::Log;

/// How often an event is offered, and how long is waited between.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// How long containerd may take to take one, and how long a call waits for its event to be taken.
const FORWARD_PATIENCE: Duration = Duration::from_secs(5);

/// Where events go. Clones publish to the same queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::UnboundedSender<Item>,
}

#[derive(Debug)]
struct Item {
    /// `None`: only to be told that everything before is done.
    event: Option<(&'static str, Any)>,
    told: oneshot::Sender<()>,
}

/// An event on its way.
#[derive(Debug)]
pub struct Published(oneshot::Receiver<()>);

impl Published {
    /// Waits until containerd has it, or does not take it in time.
    pub async fn told(self) {
        // Neither changes what happened; the log has the loss.
        tokio::time::timeout(FORWARD_PATIENCE, self.0).await.ok();
    }
}

impl Events {
    /// Publishes to `address`, containerd's ttrpc socket, as events of `namespace`.
    pub fn open(address: String, namespace: String, log: Log) -> Self {
        let (queue, inbox) = mpsc::unbounded_channel();
        tokio::spawn(deliver(inbox, address, namespace, log));
        Self { queue }
    }

    /// Publishes one: `kind` is the name of its message.
    pub fn publish(&self, topic: &'static str, kind: &str, event: &impl Message) -> Published {
        // A message of strings and numbers can always be written.
        let value = event.write_to_bytes().unwrap_or_default();
        let event = Any { type_url: format!("containerd.events.{kind}"), value, ..Any::default() };
        self.add(Some((topic, event)))
    }

    /// Everything that was published until now.
    pub fn all(&self) -> Published {
        self.add(None)
    }

    fn add(&self, event: Option<(&'static str, Any)>) -> Published {
        let (told, waits) = oneshot::channel();
        // The other end lives as long as the process.
        self.queue.send(Item { event, told }).ok();
        Published(waits)
    }
}

async fn deliver(mut inbox: mpsc::UnboundedReceiver<Item>, address: String, namespace: String, log: Log) {
    let mut client = None;
    while let Some(Item { event, told }) = inbox.recv().await {
        if let Some((topic, event)) = event {
            let envelope = Envelope {
                timestamp: MessageField::some(SystemTime::now().into()),
                namespace: namespace.clone(),
                topic: topic.to_owned(),
                event: MessageField::some(event),
                ..Envelope::default()
            };
            let request =
                ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
            if let Err(error) = offer(&mut client, &address, &request).await {
                log.warn("", &format!("containerd does not take the event {topic}: {error}"));
            }
        }
        // Whoever published may not wait.
        told.send(()).ok();
    }
}

async fn offer(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let mut attempt = 1;
    loop {
        match forward(client, address, request).await {
            Err(_) if attempt < ATTEMPTS => {
                *client = None;
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => {
            let path = address.strip_prefix("unix://").unwrap_or(address);
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|error| ttrpc::Error::Socket(format!("'{path}': {error}")))?;
            client.insert(EventsClient::new(Client::new(stream.into())))
        }
    };
    client.forward(ttrpc::context::with_duration(FORWARD_PATIENCE), request).await.map(drop)
}
