//! A program as the host's end of a card, at the other end of a Unix stream socket: what QEMU calls a stream network
//! backend. passt is one.
//!
//! ```text
//!   ... | length u32, big-endian | Ethernet frame | length | frame | ...        both ways
//! ```
//!
//! There is no virtio header on the wire, and so no offload. Frames are copied once from the stream to the guest, for
//! one read(2) may give many; from the guest they go by one writev(2) each. Of a frame that the socket takes only a
//! part of, the rest is kept and goes first: a stream that lost a byte would be of no use any more. For the same reason
//! the rest outlives a reset of the card.
//!
//! The program is trusted with the guest's network, not with this process: a length that no frame has ends the
//! connection, and nothing it sends makes a buffer grow.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::SockType;
use rvm_config::Socket;

use super::offload::HEADER_SIZE;
use super::parts::Parts;
use super::tap::NetError;
use crate::inherited;

/// Longest frame from the host: an IP packet of 65,535 bytes behind its Ethernet header, rounded up.
const LONGEST_IN: usize = 65_550;
/// Longest frame to the host: what passt takes; a longer one it takes as the end.
const LONGEST_OUT: usize = 65_535;
/// Bytes of a frame's length.
const LENGTH: usize = 4;
/// Bytes that are read ahead at most; any frame fits.
const READ_AHEAD: usize = 128 << 10;
const _: () = assert!(READ_AHEAD >= LENGTH + LONGEST_IN);

/// An open stream of frames.
pub struct Stream {
    /// Read and written without waiting.
    socket: File,
    input: Box<[u8]>,
    /// What of `input` was received and is not the guest's yet.
    unread: std::ops::Range<usize>,
    /// A frame of which the socket took a part, with its length in front.
    output: Vec<u8>,
    /// How much of `output` it took.
    written: usize,
}

impl Stream {
    /// The inherited socket that `config` names.
    pub fn open(config: &Socket) -> Result<Self, NetError> {
        let fd = config.fd;
        let socket = inherited::connected_socket(fd, SockType::Stream)
            .map_err(|source| NetError::NotASocket { fd, source })?
            .ok_or(NetError::NotAStream(fd))?;
        Self::new(socket).map_err(|source| NetError::NotASocket { fd, source })
    }

    /// A stream of frames on the connected `socket`.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // Fresh pages of zeros: they cost memory once something comes.
        let input = vec![0; READ_AHEAD].into_boxed_slice();
        Ok(Self { socket: socket.into(), input, unread: 0..0, output: Vec::new(), written: 0 })
    }

    /// Reads a frame into `window`, behind an empty header, and what does not fit into its `room` into `rest`; gives
    /// the length with the header.
    pub fn read(&mut self, window: &mut Parts<'_>, room: usize, rest: &mut [u8]) -> io::Result<usize> {
        let frame = loop {
            if let Some(frame) = self.next_frame()? {
                break frame;
            }
            self.fill()?;
        };
        window.copy_in(0, &[0; HEADER_SIZE]);
        window.copy_in(HEADER_SIZE, frame);
        let beyond = frame.get(room.saturating_sub(HEADER_SIZE)..).unwrap_or_default();
        for (to, from) in rest.iter_mut().zip(beyond) {
            *to = *from;
        }
        Ok(HEADER_SIZE + frame.len())
    }

    /// Takes a frame that was read ahead as a whole.
    fn next_frame(&mut self) -> io::Result<Option<&[u8]>> {
        let unread = self.input.get(self.unread.clone()).unwrap_or_default();
        let Some((length, frames)) = unread.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > LONGEST_IN {
            let what = format!("it announced a frame of {length} bytes, more than {LONGEST_IN}");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        let frame = frames.get(..length);
        if frame.is_some() {
            self.unread.start += LENGTH + length;
        }
        Ok(frame)
    }

    /// Reads ahead what there is.
    fn fill(&mut self) -> io::Result<()> {
        self.input.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let free = self.input.get_mut(self.unread.end..).unwrap_or_default();
        match self.socket.read(free)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.unread.end += count;
                Ok(())
            }
        }
    }

    /// Writes `frame`; `InvalidInput` for one that is too long. `WouldBlock` while the rest of the one before it
    /// waits, or when the socket takes nothing.
    pub fn write(&mut self, frame: &mut Parts<'_>) -> io::Result<()> {
        self.flush()?;
        let length = frame.length();
        if length > LONGEST_OUT {
            return Err(ErrorKind::InvalidInput.into());
        }
        let header = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let written = frame.write_to(self.socket.as_fd(), &header)?;
        if written < LENGTH + length {
            self.output.resize(LENGTH + length, 0);
            let (to_length, to_frame) = self.output.split_at_mut(LENGTH);
            to_length.copy_from_slice(&header);
            frame.copy_out(to_frame);
            self.written = written;
        }
        Ok(())
    }

    /// Writes the rest of a frame; `WouldBlock` as long as there is some.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
