//! readv(2) and writev(2) between a socket and pieces of guest memory: data is not copied on its way.

#![allow(unsafe_code, reason = "hands pieces of guest memory to the host's kernel as iovecs")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::Bitmap;

/// Most pieces that one call takes (UIO_MAXIOV); pieces after them are left out.
const MOST_PIECES: usize = 1024;

/// Reads into `pieces` in their order; gives the bytes read, 0 at the end of the stream.
pub fn read(socket: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (iovecs, count) = iovecs(pieces);
    // SAFETY: each iovec is a valid slice of guest memory, borrowed during the call; the host holds no
    // references into guest memory.
    let read = unsafe { libc::readv(socket.as_raw_fd(), iovecs.as_ptr(), count) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let mut left = read;
    for piece in pieces {
        let here = left.min(piece.len());
        piece.bitmap().mark_dirty(0, here);
        left = left.saturating_sub(here);
    }
    Ok(read)
}

/// Writes `pieces` in their order; gives the bytes written.
pub fn write(socket: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (iovecs, count) = iovecs(pieces);
    // SAFETY: each iovec is a valid slice of guest memory, borrowed during the call, and only read.
    let written = unsafe { libc::writev(socket.as_raw_fd(), iovecs.as_ptr(), count) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

fn iovecs(pieces: &[VolatileSlice<'_>]) -> (Vec<libc::iovec>, libc::c_int) {
    let iovec = |piece: &VolatileSlice<'_>| libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    };
    let iovecs: Vec<_> = pieces.iter().take(MOST_PIECES).map(iovec).collect();
    let count = libc::c_int::try_from(iovecs.len()).expect("MOST_PIECES fits");
    (iovecs, count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn pieces_are_filled_and_sent_in_their_order() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let (mut first, mut second) = ([0; 3], [0; 5]);
        far.write_all(b"abcdef").unwrap();
        let pieces = [VolatileSlice::from(&mut first[..]), VolatileSlice::from(&mut second[..])];
        assert_eq!(read(near.as_fd(), &pieces).unwrap(), 6);
        assert_eq!(write(near.as_fd(), &pieces).unwrap(), 8);
        let mut echoed = [0; 8];
        far.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"abcdef\0\0");
    }

    #[test]
    fn the_end_of_the_stream_and_a_closed_socket_are_told() {
        let (far, near) = UnixStream::pair().unwrap();
        drop(far);
        let mut bytes = [0; 3];
        let pieces = [VolatileSlice::from(&mut bytes[..])];
        assert_eq!(read(near.as_fd(), &pieces).unwrap(), 0);
        assert_eq!(write(near.as_fd(), &pieces).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
