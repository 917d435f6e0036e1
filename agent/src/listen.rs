//! vsock ports of the agent, on which only the host's connections are accepted: no process of a container can
//! speak to the agent, whichever way the kernel would take it there.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::libc::{VMADDR_CID_ANY, VMADDR_CID_HOST};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr};
use tokio::io::unix::AsyncFd;
use tokio_stream::Stream;

use crate::descriptor::Descriptor;
use crate::sys;

/// Connections that can wait to be accepted.
const BACKLOG: i32 = 128;

/// A port that listens.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Listens on a vsock port.
    pub fn on(port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        socket::bind(listener.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))?;
        socket::listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(Self(sys::asynchronous(listener)?))
    }

    /// The next connection of the host.
    pub async fn accept(&self) -> io::Result<Descriptor> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Descriptor>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            match ready.try_io(|listener| sys::accept(listener.get_ref())) {
                Ok(Ok((connection, peer))) if peer.cid() == VMADDR_CID_HOST => {
                    return Poll::Ready(Descriptor::new(connection));
                }
                // A stranger, to whom the connection is closed.
                Ok(Ok(_)) => {}
                // The host gave up before its turn came.
                Ok(Err(err)) if is_of_the_connection(&err) => {}
                Ok(Err(err)) => return Poll::Ready(Err(err)),
                Err(_would_block) => {}
            }
        }
    }
}

/// The connections to the port, without end.
impl Stream for Listener {
    type Item = io::Result<Descriptor>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(Some)
    }
}

/// Whether one connection failed, and not the port.
fn is_of_the_connection(err: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    matches!(err.kind(), ConnectionAborted | ConnectionReset | NotConnected)
}
