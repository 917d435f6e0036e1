//! What happens to tasks, told to containerd: in the order in which it was published, and none of it twice.
//!
//! One task tells, one event at a time, each on a connection of its own. Where containerd is not there (it is being
//! started again), nothing was told, and it is tried until it is; those behind it wait. What was sent and not answered
//! may have been heard: that is said in the log, and not repeated, since a container that ends twice is no less wrong
//! than one that does not end, and whoever listens can ask for the state.

use std::io;
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

/// How long a call waits for its event to be taken.
const TOLD_PATIENCE: Duration = Duration::from_secs(5);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until containerd, which has an event, answers. Long: nothing else can be done about it.
    answer: Duration,
    /// Until it is looked for again.
    pause: Duration,
}

const PATIENCE: Patience = Patience { answer: Duration::from_secs(30), pause: Duration::from_secs(1) };

/// Where events go. Clones publish to the same queue.
#[derive(Clone, Debug)]
pub struct Events {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
}

#[derive(Debug)]
struct Item {
    /// `None`: only to be told that everything before is done.
    event: Option<(&'static str, Envelope)>,
    told: oneshot::Sender<()>,
}

/// An event on its way.
#[derive(Debug)]
pub struct Published(oneshot::Receiver<()>);

impl Published {
    /// Waits until containerd has it, or does not take it in time.
    pub async fn told(self) {
        // Neither changes what happened; it is told later.
        tokio::time::timeout(TOLD_PATIENCE, self.0).await.ok();
    }
}

impl Events {
    /// Publishes to `address`, containerd's ttrpc socket, as events of `namespace`.
    pub fn open(address: String, namespace: String, log: Log) -> Self {
        Self::with(PATIENCE, address, namespace, log)
    }

    fn with(patience: Patience, address: String, namespace: String, log: Log) -> Self {
        let (queue, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Teller { address, log, patience }.deliver(inbox));
        Self { namespace, queue }
    }

    /// Publishes one: `kind` is the name of its message.
    pub fn publish(&self, topic: &'static str, kind: &str, event: &impl Message) -> Published {
        // A message of strings and numbers can always be written.
        let value = event.write_to_bytes().unwrap_or_default();
        let event = Any { type_url: format!("containerd.events.{kind}"), value, ..Any::default() };
        let envelope = Envelope {
            // It may be told much later.
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        self.add(Some((topic, envelope)))
    }

    /// Everything that was published until now.
    pub fn all(&self) -> Published {
        self.add(None)
    }

    fn add(&self, event: Option<(&'static str, Envelope)>) -> Published {
        let (told, waits) = oneshot::channel();
        // The other end lives as long as the process.
        self.queue.send(Item { event, told }).ok();
        Published(waits)
    }
}

struct Teller {
    address: String,
    log: Log,
    patience: Patience,
}

impl Teller {
    async fn deliver(self, mut inbox: mpsc::UnboundedReceiver<Item>) {
        while let Some(Item { event, told }) = inbox.recv().await {
            if let Some((topic, envelope)) = event
                // Nobody is to be told where containerd did not start the shim.
                && !self.address.is_empty()
            {
                self.tell(topic, envelope).await;
            }
            // Whoever published may not wait.
            told.send(()).ok();
        }
    }

    async fn tell(&self, topic: &str, envelope: Envelope) {
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        let client = EventsClient::new(Client::new(self.reach(topic).await.into()));
        let answer = client.forward(ttrpc::context::with_duration(self.patience.answer), &request).await;
        match answer {
            Ok(_) => self.log.debug("", format_args!("told the event {topic}")),
            Err(ttrpc::Error::RpcStatus(status)) => {
                self.log.warn("", &format!("containerd refuses the event {topic}: {}", status.message));
            }
            Err(error) => self.log.warn(
                "",
                &format!(
                    "containerd may not have heard the event {topic}, which it does not answer: {error}"
                ),
            ),
        }
    }

    /// A connection to containerd, as soon as there is one.
    async fn reach(&self, topic: &str) -> UnixStream {
        let path = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        let mut first: Option<io::Error> = None;
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return stream,
                Err(error) if first.is_none() => {
                    self.log.warn(
                        "",
                        &format!(
                            "the event {topic} waits until containerd can be reached at '{path}': {error}"
                        ),
                    );
                    first = Some(error);
                }
                Err(_) => {}
            }
            tokio::time::sleep(self.patience.pause).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use containerd_shim_protos::events::task::TaskPaused;
    use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
    use containerd_shim_protos::shim_async::{Events as Service, create_events};
    use containerd_shim_protos::ttrpc::r#async::{Server, TtrpcContext};
    use tempfile::TempDir;
    use tokio::net::UnixListener;

    use super::*;
    use crate::log::Level;

    /// What a test does not wait for in vain.
    const LONG: Duration = Duration::from_secs(20);

    /// containerd's end: what it heard. It answers after a while.
    #[derive(Clone, Default)]
    struct Containerd {
        heard: Arc<Mutex<Vec<String>>>,
        answers_after: Duration,
    }

    #[async_trait]
    impl Service for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let event = TaskPaused::parse_from_bytes(&request.envelope.event.value).unwrap();
            self.heard.lock().unwrap().push(event.container_id);
            tokio::time::sleep(self.answers_after).await;
            Ok(Empty::default())
        }
    }

    impl Containerd {
        async fn serve(&self, path: &Path) -> Server {
            let listener = UnixListener::bind(path).unwrap();
            let service = create_events(Arc::new(self.clone()));
            let mut server = Server::new().add_listener(listener.into()).register_service(service);
            server.start().await.unwrap();
            server
        }

        fn heard(&self) -> Vec<String> {
            self.heard.lock().unwrap().clone()
        }
    }

    fn at(directory: &TempDir, answer: Duration) -> (PathBuf, Events) {
        let path = directory.path().join("ttrpc");
        let patience = Patience { answer, pause: Duration::from_millis(10) };
        let log = Log::open(directory.path(), "pod", Level::Error);
        (path.clone(), Events::with(patience, path.display().to_string(), "ns".to_owned(), log))
    }

    fn publish(events: &Events, container: &str) -> Published {
        let event = TaskPaused { container_id: container.to_owned(), ..TaskPaused::default() };
        events.publish("/tasks/paused", "TaskPaused", &event)
    }

    async fn all_told(events: &Events) {
        tokio::time::timeout(LONG, events.all().0).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn events_wait_for_containerd_and_come_in_their_order_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let (path, events) = at(&directory, LONG);
        for name in ["a", "b"] {
            publish(&events, name);
        }
        // Longer than a few attempts.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let containerd = Containerd::default();
        let mut server = containerd.serve(&path).await;
        all_told(&events).await;
        assert_eq!(containerd.heard(), ["a", "b"]);

        // It is started again; meanwhile there is one more.
        server.shutdown().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        publish(&events, "c");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _server = containerd.serve(&path).await;
        publish(&events, "d");
        all_told(&events).await;
        assert_eq!(containerd.heard(), ["a", "b", "c", "d"]);
    }

    #[tokio::test]
    async fn an_event_that_is_answered_too_late_or_not_at_all_is_not_told_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, events) = at(&directory, Duration::from_millis(100));
        let containerd = Containerd { answers_after: Duration::from_millis(300), ..Containerd::default() };
        let _server = containerd.serve(&path).await;
        for name in ["a", "b"] {
            publish(&events, name);
        }
        all_told(&events).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(containerd.heard(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_ends_no_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let (path, events) = at(&directory, LONG);
        let listener = UnixListener::bind(&path).unwrap();
        publish(&events, "a");
        drop(listener.accept().await.unwrap());
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        let containerd = Containerd::default();
        let _server = containerd.serve(&path).await;
        publish(&events, "b");
        all_told(&events).await;
        assert_eq!(containerd.heard(), ["b"]);
    }

    #[tokio::test]
    async fn without_an_address_nobody_is_told_and_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path(), "pod", Level::Error);
        let events = Events::open(String::new(), "ns".to_owned(), log);
        publish(&events, "a");
        all_told(&events).await;
    }
}
