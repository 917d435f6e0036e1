//! Between a process in the guest and the command that is attached to it: output to the log and to the command, input
//! from the command.
//!
//! Little is kept for a command that does not read: the process waits for it. After the process's end the rest is kept,
//! so that the guest can go. A command that is gone is left out from then on.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};

use super::log::LogWriter;
use super::protocol::{self, CHUNK, Kind, STDIN_WINDOW};

/// Bytes kept for a command that does not read: while the process runs, and more after its end, when a pipe's and the
/// sockets' content is still under way.
const KEPT: usize = CHUNK;
const KEPT_AT_THE_END: usize = 4 << 20;

/// The way to a command. Clones lead to the same one.
#[derive(Clone)]
pub struct Client {
    frames: mpsc::UnboundedSender<(Kind, Vec<u8>)>,
    /// Bytes that may be added to the frames.
    room: Arc<Semaphore>,
}

impl Client {
    /// The command behind this half of its connection. `busy` is held until it has all that was sent, or is gone.
    pub fn new(half: OwnedWriteHalf, busy: mpsc::Sender<()>) -> Self {
        let (frames, queue) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(KEPT));
        tokio::spawn(deliver(half, queue, room.clone(), busy));
        Self { frames, room }
    }

    /// Sends a frame, when there is room for it.
    pub async fn send(&self, kind: Kind, payload: &[u8]) {
        let size = u32::try_from(payload.len().min(KEPT)).unwrap_or(u32::MAX);
        // Closed when the command is gone.
        if let Ok(room) = self.room.acquire_many(size).await {
            room.forget();
            self.frames.send((kind, payload.to_vec())).ok();
        }
    }

    /// Keeps the rest of the output of a process that has ended.
    pub fn keep_the_rest(&self) {
        self.room.add_permits(KEPT_AT_THE_END);
    }
}

/// Writes frames until nobody has any more, or nobody takes them.
async fn deliver(
    mut to: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<(Kind, Vec<u8>)>,
    room: Arc<Semaphore>,
    _busy: mpsc::Sender<()>,
) {
    while let Some((kind, payload)) = queue.recv().await {
        if protocol::send(&mut to, kind, &payload).await.is_err() {
            room.close();
            return;
        }
        room.add_permits(payload.len().min(KEPT));
    }
}

/// The container's log, which both of its outputs go to.
pub type Log = Arc<std::sync::Mutex<LogWriter>>;

/// Carries what a process writes to the log and to the command, until it ends.
pub async fn output(mut from: UnixStream, kind: Kind, log: Option<Log>, client: Client) {
    let mut buffer = vec![0; CHUNK];
    // An error is an end: the guest is gone.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default();
        if let Some(log) = &log {
            append(log, kind, bytes);
        }
        client.send(kind, bytes).await;
    }
}

/// A full disk costs the log what does not fit, not the container its life.
fn append(log: &Log, kind: Kind, bytes: &[u8]) {
    let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Err(error) = log.append(kind, bytes) {
        eprintln!("rvm: cannot write to the container's log: {error}");
    }
}

/// What an attached command asks for beside input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A new size of the terminal: columns, rows.
    Resize(u16, u16),
    /// A signal for the process.
    Signal(i32),
}

/// Carries what a command sends to the process's standard input, and gives its wishes on; until the command is gone
/// or breaks the protocol.
pub async fn input(
    mut from: OwnedReadHalf,
    to: Option<UnixStream>,
    client: Client,
    wishes: mpsc::Sender<Wish>,
) -> io::Result<()> {
    // As much is under way at the most, so that the queue has room for it.
    let (chunks, queue) = mpsc::channel(STDIN_WINDOW);
    let writer = tokio::spawn(write_input(to, queue, client));
    let mut chunks = Some(chunks);
    while let Some((kind, payload)) = protocol::receive(&mut from).await? {
        match (kind, &chunks) {
            (Kind::Stdin, Some(queue)) => queue.try_send(payload).map_err(io::Error::other)?,
            // Input after its end.
            (Kind::Stdin, None) => return Err(io::Error::other("input after its end")),
            (Kind::StdinEnd, _) => chunks = None,
            _ => {
                let wish = wish(kind, &payload).ok_or_else(|| io::Error::other("a frame out of place"))?;
                if wishes.send(wish).await.is_err() {
                    break;
                }
            }
        }
    }
    // A command that is gone gives no more input.
    drop(chunks);
    writer.await.map_err(io::Error::other)
}

fn wish(kind: Kind, payload: &[u8]) -> Option<Wish> {
    match (kind, payload) {
        (Kind::Signal, [signal]) => Some(Wish::Signal((*signal).into())),
        (Kind::Resize, size) => protocol::parse_size(size).map(|(columns, rows)| Wish::Resize(columns, rows)),
        _ => None,
    }
}

/// Writes chunks to a process, and half-closes when they end. What nobody takes any more is dropped.
async fn write_input(mut to: Option<UnixStream>, mut queue: mpsc::Receiver<Vec<u8>>, client: Client) {
    while let Some(chunk) = queue.recv().await {
        if let Some(stream) = &mut to
            && stream.write_all(&chunk).await.is_err()
        {
            to = None;
        }
        let taken = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        client.send(Kind::Taken, &taken.to_le_bytes()).await;
    }
    if let Some(mut stream) = to {
        // The process may have ended before its input.
        stream.shutdown().await.ok();
    }
}
