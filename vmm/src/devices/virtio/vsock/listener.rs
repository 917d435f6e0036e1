//! The host's end: a Unix socket for programs of the host that connect to the guest, and a name beside it for
//! each port of the host that the guest connects to.
//!
//! ```text
//!  host program ── connect, "CONNECT 1024\n" ──> <socket>        guest listens on port 1024
//!               <── "OK 1073741824\n" ──
//!  host program listens on <socket>_52 <── connect ──            guest connects to CID 2, port 52
//! ```

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, socket,
};
use nix::sys::stat::{Mode, fchmod};

use crate::directory_entry::DirectoryEntry;
use crate::jail::Within;

/// Longest line by which a program says which port it wants: `CONNECT 4294967295\n` has 19 bytes.
const MOST_LINE: usize = 32;

/// Why there is no socket device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Something of that name is there.
    #[error(
        "cannot make the vsock socket '{0}': the name is taken; remove it if no VM uses it, or choose another"
    )]
    Exists(PathBuf),
    /// The host refuses.
    #[error(
        "cannot make the vsock socket '{path}': {reason}; choose a path in a directory that exists, that you may write to"
    )]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the host said.
        reason: io::Error,
    },
}

/// The listening socket. Its name is removed when it is dropped.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// The same, and where the sockets beside it are.
    entry: DirectoryEntry,
    /// Device and inode of what the path names, so that nothing else is removed; `None` when that is done.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, where nothing is yet, for programs of the same user.
    pub fn bind(path: &Path) -> Result<Self, VsockError> {
        let failed = |reason: io::Error| match reason.kind() {
            ErrorKind::AddrInUse => VsockError::Exists(path.to_owned()),
            _ => VsockError::Listen { path: path.to_owned(), reason },
        };
        let entry = DirectoryEntry::of(path).map_err(|errno| failed(errno.into()))?;
        let socket = new_socket().map_err(failed)?;
        let address = UnixAddr::new(path).map_err(|error| failed(error.into()))?;
        // Before the name exists, so that it never has other permissions.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| failed(error.into()))?;
        bind(socket.as_raw_fd(), &address).map_err(|error| failed(error.into()))?;
        let identity = entry.identity().map_err(|errno| failed(errno.into()))?;
        let (socket, path) = (socket.into(), path.to_owned());
        let listener = Self { socket, path, entry, identity: Some(identity) };
        listen(&listener.socket, Backlog::MAXCONN).map_err(|error| failed(error.into()))?;
        Ok(listener)
    }

    /// The next program that connected; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Looks the names of the host's sockets up in what `within` gives for their directory.
    pub fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        self.entry.relocate(within)
    }

    /// Gives this thread a working directory of its own, where the sockets are: connect(2) takes no descriptor to begin
    /// at. To be called on the thread that then calls [`Self::connect`].
    pub fn enter_thread(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_FS)?;
        self.entry.enter()
    }

    /// Connects to the program that listens for the guest's connections to `port`.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut name = self.entry.name().to_owned();
        name.push(format!("_{port}"));
        let socket = new_socket()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(Path::new(&name))?)?;
        Ok(UnixStream::from(socket))
    }

    /// Removes the socket's name, if it is still this socket's.
    pub fn remove(&mut self) {
        let Some(identity) = self.identity.take() else {
            return;
        };
        let ours = self.entry.identity().is_ok_and(|found| found == identity);
        if ours && let Err(error) = self.entry.remove() {
            log::warn!("cannot remove the vsock socket '{}': {error}", self.path.display());
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove();
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// What a program has said so far about the port it wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Not enough yet.
    Incomplete,
    /// This port. The line is taken off the stream; what follows it is for the guest.
    Port(u32),
    /// Nothing that can be understood, or it is gone.
    Invalid,
}

/// Looks for the line `CONNECT <port>\n` at the start of `stream`.
pub fn read_call(stream: &UnixStream) -> Call {
    let mut line = [0; MOST_LINE];
    let there = match recv(stream.as_raw_fd(), &mut line, MsgFlags::MSG_PEEK) {
        Ok(there @ 1..) => line.get(..there).unwrap_or(&line),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Call::Incomplete,
        Ok(0) | Err(_) => return Call::Invalid,
    };
    let Some(end) = there.iter().position(|byte| *byte == b'\n') else {
        return if there.len() < MOST_LINE { Call::Incomplete } else { Call::Invalid };
    };
    let Some(port) = there.get(..end).and_then(parse_call) else {
        return Call::Invalid;
    };
    let mut taken = [0; MOST_LINE];
    let length = end.saturating_add(1);
    let taken = taken.get_mut(..length).unwrap_or_default();
    match recv(stream.as_raw_fd(), taken, MsgFlags::empty()) {
        Ok(count) if count == length => Call::Port(port),
        _ => Call::Invalid,
    }
}

/// The port in `CONNECT <port>`.
fn parse_call(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)?.parse().ok()
}
