//! Streams that the host opened: connections that began with a token, until the call that names it claims them.
//!
//! The call may come before the connection; it then waits for a bounded time. Connections that no call names are
//! bounded in number and in time, so that a confused host cannot fill the guest's memory with them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rvm_agent_proto::STREAM_HEADER;
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::descriptor::Descriptor;
use crate::listen::Listener;
use crate::refusal::status;

/// How long a connection may take to send its token.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long it is kept after that, for the call that names it.
const KEPT: Duration = Duration::from_secs(30);
/// How long a call waits for its stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that no call has named.
const MAX_UNCLAIMED: usize = 64;

/// Why a call does not get its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection came with the token.
    #[error("no connection came with the token {0:#x} of a stream; open it before the call, or within 10 s")]
    Absent(u64),
    /// Two calls named it.
    #[error("another call waits for the stream of token {0:#x}; each stream needs a token of its own")]
    Named(u64),
}

/// The refusal of a call that does not get its stream.
pub fn no_stream(error: Error) -> Status {
    let code = match error {
        Error::Absent(_) => Code::FailedPrecondition,
        Error::Named(_) => Code::InvalidArgument,
    };
    status(code, &error)
}

/// A connection that waits for a call, or a call that waits for a connection.
#[derive(Debug)]
enum Half {
    Connection { connection: Descriptor, arrival: u64, _place: OwnedSemaphorePermit },
    Call(oneshot::Sender<Descriptor>),
}

#[derive(Debug, Default)]
struct Halves {
    by_token: HashMap<u64, Half>,
    arrivals: u64,
}

/// All streams that are not whole yet; clones are one registry.
#[derive(Clone, Debug)]
pub struct Streams {
    halves: Arc<Mutex<Halves>>,
    places: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { halves: Arc::default(), places: Arc::new(Semaphore::new(MAX_UNCLAIMED)) }
    }
}

impl Streams {
    /// Takes connections in, until the port fails.
    pub async fn accept(&self, port: &Listener) -> io::Result<Infallible> {
        loop {
            let connection = port.accept().await?;
            tokio::spawn(self.clone().take_in(connection));
        }
    }

    /// The stream of this token, if need be after a wait.
    pub async fn claim(&self, token: u64) -> Result<Descriptor, Error> {
        let connection = {
            let mut halves = self.lock();
            let (sender, receiver) = oneshot::channel();
            match halves.by_token.insert(token, Half::Call(sender)) {
                Some(Half::Connection { connection, .. }) => {
                    halves.by_token.remove(&token);
                    return Ok(connection);
                }
                Some(Half::Call(other)) if !other.is_closed() => {
                    halves.by_token.insert(token, Half::Call(other));
                    return Err(Error::Named(token));
                }
                Some(Half::Call(_)) | None => receiver,
            }
        };
        let _forgotten_at_the_end = Call { streams: self, token };
        match timeout(PATIENCE, connection).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(_)) | Err(_) => Err(Error::Absent(token)),
        }
    }

    /// Reads a connection's token and keeps the connection for its call. Closes it if there are too many, if the
    /// token does not come, is taken, or is not named in time.
    async fn take_in(self, mut connection: Descriptor) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let mut token = [0; STREAM_HEADER];
        let header = timeout(HEADER_TIME, connection.read_exact(&mut token)).await;
        let Ok(Ok(_)) = header else { return };
        let token = u64::from_le_bytes(token);
        if let Some(arrival) = self.pair(token, connection, place) {
            sleep(KEPT).await;
            self.forget(token, arrival);
        }
    }

    /// Gives a connection to the call that waits for it, or else keeps it and gives the number of its arrival.
    fn pair(&self, token: u64, mut connection: Descriptor, place: OwnedSemaphorePermit) -> Option<u64> {
        let mut halves = self.lock();
        match halves.by_token.remove(&token) {
            Some(Half::Call(call)) => connection = call.send(connection).err()?,
            Some(first) => {
                halves.by_token.insert(token, first);
                return None;
            }
            None => {}
        }
        let arrival = halves.arrivals;
        halves.arrivals = arrival.wrapping_add(1);
        halves.by_token.insert(token, Half::Connection { connection, arrival, _place: place });
        Some(arrival)
    }

    /// Closes the connection of this arrival if it still waits.
    fn forget(&self, token: u64, number: u64) {
        let mut halves = self.lock();
        if let Some(Half::Connection { arrival, .. }) = halves.by_token.get(&token)
            && *arrival == number
        {
            halves.by_token.remove(&token);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        // Each change is complete in itself; a panic elsewhere leaves nothing half done.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits. However it ends, it is not waiting any more.
struct Call<'a> {
    streams: &'a Streams,
    token: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut halves = self.streams.lock();
        if let Some(Half::Call(call)) = halves.by_token.get(&self.token)
            && call.is_closed()
        {
            halves.by_token.remove(&self.token);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Descriptor, Error, HEADER_TIME, KEPT, MAX_UNCLAIMED, Streams};
    use rvm_agent_proto::stream_header;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::task::yield_now;
    use tokio::time::advance;

    /// A connection of the host: its own end, and the task that takes the other in.
    fn connect(streams: &Streams, first: &[u8]) -> UnixStream {
        let (mut host, guest) = UnixStream::pair().unwrap();
        host.write_all(first).unwrap();
        host.set_nonblocking(true).unwrap();
        tokio::spawn(streams.clone().take_in(Descriptor::new(guest.into()).unwrap()));
        host
    }

    /// Whether the agent has closed a connection.
    fn is_closed(mut host: &UnixStream) -> bool {
        match host.read(&mut [0]) {
            Ok(0) => true,
            Err(err) if err.kind() == ErrorKind::ConnectionReset => true,
            Err(err) if err.kind() == ErrorKind::WouldBlock => false,
            other => panic!("the agent sent {other:?}"),
        }
    }

    /// Lets the tasks run, with the time standing still.
    async fn settle() {
        for _ in 0..2 * MAX_UNCLAIMED {
            yield_now().await;
        }
        // A turn of the driver, which knows of new bytes.
        advance(Duration::from_millis(1)).await;
        for _ in 0..2 * MAX_UNCLAIMED {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_claimed_by_its_token_whichever_comes_first() {
        let streams = Streams::default();
        let mut early = connect(&streams, &stream_header(7));
        settle().await;
        early.write_all(b"early").unwrap();
        let mut text = [0; 5];
        streams.claim(7).await.unwrap().read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"early");

        let call = tokio::spawn({
            let streams = streams.clone();
            async move { streams.claim(8).await }
        });
        settle().await;
        let _late = connect(&streams, &stream_header(8));
        call.await.unwrap().unwrap();
        assert!(streams.lock().by_token.is_empty());
        assert_eq!(streams.places.available_permits(), MAX_UNCLAIMED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_not_wait_for_ever_and_two_cannot_share_a_stream() {
        let streams = Streams::default();
        let (first, second) = tokio::join!(streams.claim(9), streams.claim(9));
        assert_eq!(first.unwrap_err(), Error::Absent(9));
        assert_eq!(second.unwrap_err(), Error::Named(9));
        assert!(streams.lock().by_token.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_no_call_names_is_closed_in_time() {
        let streams = Streams::default();
        let host = connect(&streams, &stream_header(7));
        settle().await;
        assert!(!is_closed(&host));
        advance(KEPT).await;
        settle().await;
        assert!(is_closed(&host));
        assert!(streams.lock().by_token.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_whole_token_is_closed_in_time() {
        let streams = Streams::default();
        let host = connect(&streams, b"1234567");
        settle().await;
        assert!(!is_closed(&host));
        advance(HEADER_TIME).await;
        settle().await;
        assert!(is_closed(&host));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_connection_with_a_token_does_not_displace_the_first() {
        let streams = Streams::default();
        let first = connect(&streams, &stream_header(7));
        settle().await;
        let second = connect(&streams, &stream_header(7));
        settle().await;
        assert!(is_closed(&second) && !is_closed(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_limit_are_closed_and_the_others_stay() {
        let streams = Streams::default();
        let kept: Vec<UnixStream> = (0..MAX_UNCLAIMED).map(|_| connect(&streams, b"")).collect();
        settle().await;
        let one_more = connect(&streams, &stream_header(1));
        settle().await;
        assert!(is_closed(&one_more));
        assert!(!kept.iter().any(is_closed));
        drop(kept);
        settle().await;
        assert_eq!(streams.places.available_permits(), MAX_UNCLAIMED);
    }
}
