//! One connection's stream from the host program to the guest.
//!
//! Nothing is kept here: data moves from the socket into the guest's buffers, and stays in the socket while the
//! guest has no buffers, or no credit: it told how much it keeps (`buf_alloc`) and how much of that it has passed
//! on (`fwd_cnt`, virtio 1.2, section 5.10.6.3). Both are the guest's word; a false one harms the guest alone,
//! as nothing is written but into buffers that it gave.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::buffers::Buffer;

/// Most buffers that one read fills.
const MOST_BUFFERS: usize = 32;

/// The stream to the guest.
#[derive(Debug)]
pub struct ToGuest {
    /// The socket may have data, or its end.
    readable: bool,
    /// The program sends no more: the socket will not report its end again.
    hung_up: bool,
    /// Nothing more comes: the program ended the stream, or the guest wants no more.
    ended: bool,
    /// Bytes sent since the connection began (wraps).
    sent: u32,
    /// The guest's window and how much it has passed on, as last told.
    window: u32,
    forwarded: u32,
    /// The guest was asked for credit, and has not told anything since.
    asked: bool,
    /// How many buffers the next read should fill.
    batch: usize,
}

/// What a read from the socket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes.
    Data(usize),
    /// Nothing for now.
    Nothing,
    /// The program sends no more.
    End,
}

impl ToGuest {
    /// A stream of which nothing is known.
    pub fn new() -> Self {
        let (readable, hung_up, ended, asked) = (false, false, false, false);
        Self { readable, hung_up, ended, sent: 0, window: 0, forwarded: 0, asked, batch: 1 }
    }

    /// The guest told its window and how much of the data it has passed on.
    pub fn note_credit(&mut self, window: u32, forwarded: u32) {
        (self.window, self.forwarded, self.asked) = (window, forwarded, false);
    }

    /// How many bytes the guest can take.
    pub fn credit(&self) -> u32 {
        self.window.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// The socket reported data, or with `hung_up` the end of it.
    pub fn note_readable(&mut self, hung_up: bool) {
        self.readable = true;
        self.hung_up |= hung_up;
    }

    /// Whether there may be data and the guest can take some.
    pub fn can_send(&self) -> bool {
        self.readable && !self.ended && self.credit() > 0
    }

    /// Whether there may be data and the guest, not yet asked, can take none.
    pub fn lacks_credit(&self) -> bool {
        self.readable && !self.ended && !self.asked && self.credit() == 0
    }

    /// The guest was asked for credit.
    pub fn note_asked(&mut self) {
        self.asked = true;
    }

    /// How many buffers to offer to the next read: one more than the last one filled, or twice as many if it
    /// filled them all.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Takes the outcome of a read into `buffers`.
    pub fn receive(&mut self, read: io::Result<usize>, buffers: &[Buffer]) -> Received {
        match read {
            Ok(0) => {
                self.ended = true;
                Received::End
            }
            Ok(count) => {
                let (mut left, mut filled) = (count, 0_usize);
                for buffer in buffers {
                    let Some(rest) = left.checked_sub(buffer.capacity) else {
                        break;
                    };
                    (left, filled) = (rest, filled.saturating_add(1));
                }
                let all = filled == buffers.len();
                // Less than was asked for: the socket is empty, and reports when it no longer is.
                self.readable = all || self.hung_up;
                let batch = if all { filled.saturating_mul(2) } else { filled.saturating_add(1) };
                self.batch = batch.min(MOST_BUFFERS);
                self.sent = self.sent.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
                Received::Data(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Received::Nothing,
            // The program went away without reading everything.
            Err(_) => {
                self.ended = true;
                Received::End
            }
        }
    }

    /// The guest wants no more; the program sees that it can send no more.
    pub fn refuse(&mut self, socket: &UnixStream) {
        self.ended = true;
        // Fails when the program is gone: it sends no more in any case.
        socket.shutdown(Shutdown::Read).ok();
    }

    /// Whether the guest has everything there will be.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}
