//! Descriptors that whoever started this process left open for it, by their numbers.

#![allow(unsafe_code, reason = "a number becomes a descriptor")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockType, UnixAddr, getpeername, getsockopt, sockopt};

/// A descriptor of our own for the inherited `fd`. A number that is no open descriptor is an error (EBADF).
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory; a number that is no open descriptor is answered by EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The same of a connected Unix socket of type `kind`; `None` for another socket.
pub fn connected_socket(fd: RawFd, kind: SockType) -> io::Result<Option<OwnedFd>> {
    let socket = duplicate(fd)?;
    let right_kind = getsockopt(&socket, sockopt::SockType)? == kind;
    // Another family's address is none of a Unix socket.
    let connected = right_kind && getpeername::<UnixAddr>(socket.as_raw_fd()).is_ok();
    Ok(connected.then_some(socket))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_another_descriptor_of_the_same_file() {
        let file = File::open("/dev/null").unwrap();
        let copy = duplicate(file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        assert_eq!(File::from(copy).metadata().unwrap().file_type(), file.metadata().unwrap().file_type());
        assert_eq!(duplicate(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
