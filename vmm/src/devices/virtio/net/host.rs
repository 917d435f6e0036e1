//! The host's end of a card: a tap, or a program at the other end of a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rvm_config::NetHost;

use super::offload::HEADER_SIZE;
use super::parts::Parts;
use super::stream::Stream;
use super::tap::{NetError, Tap};

/// Where packets come from and go to.
pub enum HostEnd {
    /// Each read and write is a packet.
    Tap(Tap),
    /// Packets follow each other in a stream.
    Stream(Stream),
}

impl HostEnd {
    /// Opens what `config` names.
    pub fn open(config: &NetHost) -> Result<Self, NetError> {
        Ok(match config {
            NetHost::Tap(tap) => Self::Tap(Tap::open(tap)?),
            NetHost::Socket(socket) => Self::Stream(Stream::open(socket)?),
        })
    }

    /// The `TUN_F_*` that [`Self::set_offloads`] takes.
    pub fn offloads(&self) -> u32 {
        match self {
            Self::Tap(tap) => tap.offloads(),
            Self::Stream(_) => 0,
        }
    }

    /// What the packets read from here on may leave to their reader, as `TUN_F_*`.
    pub fn set_offloads(&self, flags: u32) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.set_offloads(flags),
            // Its packets leave nothing to anybody.
            Self::Stream(_) => Ok(()),
        }
    }

    /// Reads a packet with its header into `window`, which has room for `room` bytes, and what does not fit into
    /// `rest`; gives its length. `WouldBlock` when there is none now; other errors but `Interrupted` are for good.
    pub fn read(&mut self, window: &mut Parts<'_>, room: usize, rest: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tap(tap) => match window.read_from(tap.as_fd(), rest)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                length => Ok(length),
            },
            Self::Stream(stream) => stream.read(window, room, rest),
        }
    }

    /// Writes a packet: `header`, which was judged, and `frame`. `WouldBlock` when it is to be written again later;
    /// [`Self::is_lost`] tells what other errors mean.
    pub fn write(&mut self, header: &[u8; HEADER_SIZE], frame: &mut Parts<'_>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => frame.write_to(tap.as_fd(), header).map(|_| ()),
            Self::Stream(stream) => stream.write(frame),
        }
    }

    /// Writes what was begun to be written. `WouldBlock` as long as there is a rest.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tap(_) => Ok(()),
            Self::Stream(stream) => stream.flush(),
        }
    }

    /// Whether nothing more comes of this end after a write failed so; else it was that packet.
    pub fn is_lost(&self, error: &io::Error) -> bool {
        match self {
            Self::Tap(_) => error.raw_os_error() == Some(libc::EBADFD),
            Self::Stream(_) => error.kind() != io::ErrorKind::InvalidInput,
        }
    }
}

impl AsRawFd for HostEnd {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tap(tap) => tap.as_raw_fd(),
            Self::Stream(stream) => stream.as_raw_fd(),
        }
    }
}
