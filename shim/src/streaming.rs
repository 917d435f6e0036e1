//! Streams of processes by connections of containerd's to the shim's own socket (`io_type = 'streaming'` of CRI): the
//! service containerd.services.streaming.v1, whose messages are those of core/transfer/streaming there.
//!
//! ```text
//!  client ── Stream: its name ──> ack        process's end ── socket pair ── here ── Data ──> client
//!                                            process's end <── socket pair ── here <── Data ── client
//! ```
//!
//! A client comes before the process is made, and names a stream by what the process's path of it will say
//! (`ttrpc+unix://SOCKET?streaming_id=NAME`). It may go, and another come for the same: the newest one has the stream. What
//! nobody reads stays in the socket pair, and the process waits.
//!
//! An input's client sends what it was granted by a WindowUpdate. Those of an output's client are not counted: each client has
//! a connection of its own, and one that does not read holds up nobody else. (Some versions of containerd grant less than they
//! read.)

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::r#async::{
    SSReceiver, ServerStream, Service, StreamHandler, StreamInner, TtrpcContext,
};
use containerd_shim_protos::ttrpc::security_extension::ConnectionData;
use containerd_shim_protos::ttrpc::{self, Code, get_status, proto};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::container::locked;
use crate::error::ShimError;

/// The service and its one method.
const SERVICE: &str = "containerd.services.streaming.v1.Streaming";
const METHOD: &str = "Stream";

/// Types of messages.
const INIT: &str = "containerd.services.streaming.v1.StreamInit";
const DATA: &str = "containerd.types.transfer.Data";
const WINDOW: &str = "containerd.types.transfer.WindowUpdate";
const EMPTY: &str = "google.protobuf.Empty";

/// Bytes that are sent at a time, and most that an input's client sends before it is told to go on.
const CHUNK: usize = 32 << 10;
const GRANTED: usize = 64 << 10;

/// `StreamInit`.
#[derive(Clone, PartialEq, Message)]
struct Init {
    #[prost(string, tag = "1")]
    id: String,
}

/// `Data`.
#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// `WindowUpdate`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Window {
    #[prost(int32, tag = "1")]
    update: i32,
}

type Client = ServerStream<Any, Any>;

/// What a connection's calls have in common: there as long as the connection is. Nothing else tells of its end.
type Connection = Weak<ConnectionData>;

/// How often is looked whether a connection is still there.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// All of a pod's streams.
#[derive(Debug)]
pub struct Streams {
    /// Where the shim listens.
    socket: PathBuf,
    known: Mutex<HashMap<String, Arc<Stream>>>,
}

/// A stream.
#[derive(Debug)]
struct Stream {
    /// Held by the client that has the stream.
    end: tokio::sync::Mutex<Option<End>>,
    /// Whether the process's end is there.
    is_open: watch::Sender<bool>,
    /// Whether a client has read all that the process said.
    is_heard: watch::Sender<bool>,
    /// How many clients have come.
    clients: watch::Sender<u64>,
}

/// The near end of a socket pair.
#[derive(Debug)]
struct End {
    pair: UnixStream,
    direction: Direction,
    /// Bytes that a client did not take.
    left: Vec<u8>,
}

/// A process's end of a stream, which has the name as long as this.
#[derive(Debug)]
pub struct Claim {
    streams: Arc<Streams>,
    name: String,
    stream: Arc<Stream>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut known = locked(&self.streams.known);
        if known.get(&self.name).is_some_and(|known| Arc::ptr_eq(known, &self.stream)) {
            known.remove(&self.name);
        }
    }
}

impl Claim {
    /// Of an output whose process's end is closed: waits until a client has read everything.
    pub async fn heard(&self) {
        // The sender is the stream's.
        self.stream.is_heard.subscribe().wait_for(|heard| *heard).await.ok();
    }

    /// No client is expected any more. One that is there ends the stream itself.
    pub fn close(&self) {
        if let Ok(mut end) = self.stream.end.try_lock() {
            *end = None;
        }
    }
}

impl Streams {
    /// Those of the shim that listens at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, known: Mutex::default() }
    }

    /// Whether an address is one of a stream: `ttrpc+unix://SOCKET?streaming_id=NAME`.
    pub fn is_one(address: &str) -> bool {
        address.starts_with("ttrpc+unix://")
    }

    /// Opens the stream of this address for a process.
    pub fn open(
        self: &Arc<Self>,
        address: &str,
        direction: Direction,
    ) -> Result<(UnixStream, Claim), ShimError> {
        let name = self.name(address)?;
        let (pair, theirs) = UnixStream::pair().map_err(ShimError::host("make a pair of sockets"))?;
        let stream = self.stream(name);
        let mut end = stream.end.try_lock().ok().filter(|end| end.is_none());
        match &mut end {
            Some(end) => **end = Some(End { pair, direction, left: Vec::new() }),
            None => return Err(ShimError::Exists { what: "stream", id: name.to_owned() }),
        }
        drop(end);
        stream.is_open.send_replace(true);
        Ok((theirs, Claim { streams: self.clone(), name: name.to_owned(), stream }))
    }

    fn name<'a>(&self, address: &'a str) -> Result<&'a str, ShimError> {
        let unsupported = |reason| ShimError::Unsupported { what: format!("the stream '{address}'"), reason };
        let (scheme_and_socket, query) =
            address.split_once('?').ok_or_else(|| unsupported("it has no name (`streaming_id`)"))?;
        let socket = scheme_and_socket.strip_prefix("ttrpc+unix://").unwrap_or_default();
        if self.socket != Path::new(socket) {
            return Err(unsupported("a process's streams are served by its pod's shim, at its own socket"));
        }
        let mut words = query.split('&').filter_map(|word| word.strip_prefix("streaming_id="));
        words.find(|name| !name.is_empty()).ok_or_else(|| unsupported("it has no name (`streaming_id`)"))
    }

    fn stream(&self, name: &str) -> Arc<Stream> {
        let new = || {
            Arc::new(Stream {
                end: tokio::sync::Mutex::default(),
                is_open: watch::Sender::new(false),
                is_heard: watch::Sender::new(false),
                clients: watch::Sender::new(0),
            })
        };
        locked(&self.known).entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// Nobody will open a stream that no process has.
    fn forget_if_unclaimed(&self, name: &str, stream: &Arc<Stream>) {
        let mut known = locked(&self.known);
        let is_this = known.get(name).is_some_and(|known| Arc::ptr_eq(known, stream));
        if is_this && !*stream.is_open.borrow() {
            known.remove(name);
        }
    }

    /// Serves a client to the end of the stream, or its own.
    async fn serve(&self, mut client: Client, connection: Connection) -> ttrpc::Result<()> {
        let invalid =
            |reason: &str| ttrpc::Error::RpcStatus(get_status(Code::INVALID_ARGUMENT, reason.to_owned()));
        let Some(mut first) = client.recv().await? else { return Ok(()) };
        if first == Any::default() {
            // What becomes of a request that is not marked to have no data, as Go's are not.
            let Some(next) = client.recv().await? else { return Ok(()) };
            first = next;
        }
        let init = Init::decode(first.value.as_slice()).ok().filter(|_| first.type_url.ends_with(INIT));
        let name = init.map(|init| init.id).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid("a stream begins with its name"))?;
        let stream = self.stream(&name);
        let mut number = 0;
        stream.clients.send_modify(|clients| {
            *clients += 1;
            number = *clients;
        });
        client.send(&any(EMPTY, Vec::new())).await?;
        let mut clients = stream.clients.subscribe();
        tokio::select! {
            () = carry(&stream, client, connection) => {}
            // Whoever has come since has the stream.
            _ = clients.wait_for(|newest| *newest != number) => return Ok(()),
        }
        self.forget_if_unclaimed(&name, &stream);
        Ok(())
    }
}

/// Carries between a client and a process, as soon as there is one.
async fn carry(stream: &Arc<Stream>, mut client: Client, connection: Connection) {
    let mut open = stream.is_open.subscribe();
    loop {
        tokio::select! {
            // The sender is the stream's.
            _ = open.wait_for(|open| *open) => break,
            message = client.recv() => match message {
                // An output's client grants before there is anything. An input's has not been granted yet.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
        }
    }
    let mut slot = stream.end.lock().await;
    let Some(end) = slot.as_mut() else { return };
    let is_over = match end.direction {
        Direction::Out => carry_out(end, &mut client).await,
        Direction::In => carry_in(end, &mut client).await,
    };
    if is_over {
        *slot = None;
        let (_, answers) = client.split();
        tokio::spawn(attend(stream.clone(), answers, connection));
    }
}

/// Waits until a client that was sent everything has read it: it closes its side then, or the connection.
async fn attend(stream: Arc<Stream>, mut answers: SSReceiver<Any>, connection: Connection) {
    while connection.strong_count() > 0 {
        if let Ok(Ok(None) | Err(_)) = timeout(LOOK_PAUSE, answers.recv()).await {
            break;
        }
    }
    stream.is_heard.send_replace(true);
}

/// To the client. True: the process has said everything.
async fn carry_out(end: &mut End, client: &mut Client) -> bool {
    let mut buffer = vec![0; CHUNK];
    loop {
        if end.left.is_empty() {
            tokio::select! {
                read = end.pair.read(&mut buffer) => match read {
                    Ok(length @ 1..) => end.left.extend(buffer.iter().take(length)),
                    // An error is an end: the process is gone.
                    _ => return true,
                },
                message = client.recv() => match message {
                    Ok(Some(_)) => continue,
                    Ok(None) | Err(_) => return false,
                },
            }
        }
        let data = Data { data: end.left.clone() };
        if client.send(&any(DATA, data.encode_to_vec())).await.is_err() {
            return false;
        }
        end.left.clear();
    }
}

/// From the client. True: it has said everything, or nobody hears it.
async fn carry_in(end: &mut End, client: &mut Client) -> bool {
    let mut granted = GRANTED;
    loop {
        let window = Window { update: i32::try_from(granted).unwrap_or(i32::MAX) };
        if granted > 0 && client.send(&any(WINDOW, window.encode_to_vec())).await.is_err() {
            return false;
        }
        let Ok(message) = client.recv().await else { return false };
        let Some(message) = message else { return true };
        let Ok(data) = Data::decode(message.value.as_slice()) else { return false };
        granted = data.data.len();
        if message.type_url.ends_with(DATA) && end.pair.write_all(&data.data).await.is_err() {
            return true;
        }
    }
}

fn any(kind: &str, value: Vec<u8>) -> Any {
    Any { type_url: kind.to_owned(), value, ..Any::default() }
}

struct Handler(Arc<Streams>);

#[async_trait]
impl StreamHandler for Handler {
    async fn handler(
        &self,
        context: TtrpcContext,
        inner: StreamInner,
    ) -> ttrpc::Result<Option<proto::Response>> {
        let connection = Arc::downgrade(&context.connection_data);
        drop(context);
        match self.0.serve(Client::new(inner), connection).await {
            Ok(()) => Ok(None),
            Err(ttrpc::Error::RpcStatus(status)) => {
                let mut refused = proto::Response::new();
                refused.set_status(status);
                Ok(Some(refused))
            }
            Err(error) => Err(error),
        }
    }
}

/// The service, by its name.
pub fn service(streams: &Arc<Streams>) -> (String, Service) {
    let handler: Arc<dyn StreamHandler + Send + Sync> = Arc::new(Handler(streams.clone()));
    let streams = HashMap::from([(METHOD.to_owned(), handler)]);
    (SERVICE.to_owned(), Service { methods: HashMap::new(), streams })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests;
