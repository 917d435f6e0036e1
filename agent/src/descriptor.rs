//! A descriptor that does not block, for the runtime to read and write: a vsock connection, a pipe, the master
//! of a pty. Who connects is decided in `listen`.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::VMADDR_CID_HOST;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, VsockAddr, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tonic::transport::server::Connected;

use crate::sys;

/// A descriptor the runtime waits for.
#[derive(Debug)]
pub struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Makes the descriptor one that does not block, and hands it to the runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(sys::asynchronous(fd)?))
    }

    /// Connects to a vsock port of the host.
    pub async fn to_host(port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        match socket::connect(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_HOST, port)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let connecting = Self(sys::asynchronous(socket)?);
        connecting.0.writable().await?.retain_ready();
        match socket::getsockopt(&connecting.0, sockopt::SocketError)? {
            0 => Ok(connecting),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Takes it back from the runtime, as one that blocks again.
    pub fn into_blocking(self) -> io::Result<OwnedFd> {
        let fd = self.0.into_inner();
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
        Ok(fd)
    }

    /// Waits for bytes and hands them to `take`, without any at the end.
    pub async fn read_with<T>(&self, mut take: impl FnMut(&[u8]) -> T) -> io::Result<T> {
        self.0.async_io(Interest::READABLE, |fd| Ok(read_with(fd, &mut take)?)).await
    }

    /// The same with the bytes that are there now, or EAGAIN.
    pub fn try_read_with<T>(&self, mut take: impl FnMut(&[u8]) -> T) -> nix::Result<T> {
        read_with(self.0.get_ref(), &mut take)
    }

    /// Writes as much as goes now, which may be nothing.
    pub fn try_write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match nix::unistd::write(&self.0, bytes) {
            Err(Errno::EAGAIN) => Ok(0),
            result => result,
        }
    }

    /// Waits until a file that can always be read says that it has changed, as those of cgroups do.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?));
            bytes = bytes.get(written.await?..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends one or both directions of a connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => socket::Shutdown::Read,
            Shutdown::Write => socket::Shutdown::Write,
            Shutdown::Both => socket::Shutdown::Both,
        };
        Ok(socket::shutdown(self.0.as_raw_fd(), how)?)
    }
}

/// Reads into a buffer that all descriptors share, so that one that is idle has none of its own.
fn read_with<T>(fd: &OwnedFd, take: &mut impl FnMut(&[u8]) -> T) -> nix::Result<T> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER_BYTES, 0);
        let length = nix::unistd::read(fd, buffer)?;
        Ok(take(buffer.get(..length).unwrap_or_default()))
    })
}

/// The capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match ready.try_io(|fd| Ok(nix::unistd::read(fd, room)?)) {
                Ok(read) => {
                    buffer.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is kept back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shutdown(Shutdown::Write) {
            // The other side was faster.
            Err(err) if err.raw_os_error() == Some(Errno::ENOTCONN as i32) => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl Connected for Descriptor {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
