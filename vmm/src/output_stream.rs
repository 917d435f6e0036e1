//! Standard output or error, to which a VMM writes what a guest causes: never waiting for whoever reads it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `stream` without blocking: what it does not take now is refused with `WouldBlock`. The flag that says so belongs to the
/// open file, which other processes share: so a terminal or pipe is opened once more, while /proc is there.
pub fn without_blocking(stream: impl AsFd) -> io::Result<Box<dyn Write + Send>> {
    let shared = File::from(stream.as_fd().try_clone_to_owned()?);
    let kind = shared.metadata()?.file_type();
    if kind.is_fifo() || shared.is_terminal() {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let path = format!("/proc/self/fd/{}", shared.as_raw_fd());
        if let Ok(own) = OpenOptions::new().write(true).custom_flags(flags.bits()).open(path) {
            return Ok(Box::new(own));
        }
    }
    // A socket, which cannot be opened again; another user's terminal; a file, which never blocks.
    Ok(Box::new(PolledWriter(shared)))
}

/// A writer that asks whether its file (terminal, pipe, socket) is ready before each write, so that it does
/// not block although the file, which other processes share, is in blocking mode.
pub struct PolledWriter(pub File);

impl Write for PolledWriter {
    /// Writes at most a page: a pipe that is ready takes that much without blocking.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::ZERO)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            _ => self.0.write(bytes.get(..4096).unwrap_or(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
