//! One connection's stream from the guest to the host program.
//!
//! What the program's socket does not take at once is kept, up to the window that the guest was told
//! (`buf_alloc`, virtio 1.2, section 5.10.6.3); a guest that sends more breaks the rules. The guest is told how
//! far its data went (`fwd_cnt`) in every packet, and in a packet of its own when that is a quarter of a window.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, VolatileSlice};

use super::vectored;

/// The guest sent more than it had credit for, or sent after it said that it would not.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation;

/// The stream to the host program.
#[derive(Debug)]
pub struct ToHost {
    /// Accepted from the guest, not yet taken by the socket; at most `window` bytes.
    backlog: VecDeque<u8>,
    window: u32,
    /// Bytes passed on or dropped since the connection began (wraps).
    forwarded: u32,
    /// `forwarded` as the guest knows it.
    told: u32,
    /// The guest sends no more.
    ended: bool,
    /// The program takes no more: the socket's sending side is done, from either end.
    closed: bool,
}

impl ToHost {
    /// A stream that keeps up to `window` bytes.
    pub fn new(window: u32) -> Self {
        Self { backlog: VecDeque::new(), window, forwarded: 0, told: 0, ended: false, closed: false }
    }

    /// The guest's data: passed on to `socket`, or kept, or dropped when the program takes no more.
    pub fn take(&mut self, socket: &UnixStream, data: &[VolatileSlice<'_>]) -> Result<(), Violation> {
        let length: usize = data.iter().map(VolatileSlice::len).sum();
        if self.ended || length > self.room() {
            return Err(Violation);
        }
        let mut sent = 0;
        if self.backlog.is_empty() && !self.closed {
            sent = self.judge(vectored::write(socket.as_fd(), data));
        }
        if self.closed {
            sent = length;
        }
        self.forward(sent);
        self.keep(data, sent);
        Ok(())
    }

    /// Passes on what was kept, as far as `socket` takes it.
    pub fn flush(&mut self, socket: &UnixStream) {
        while !self.closed && !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            let result = (&*socket).write(first);
            let sent = self.judge(result).min(self.backlog.len());
            if sent == 0 {
                break;
            }
            self.backlog.drain(..sent);
            self.forward(sent);
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
        self.close_if_over(socket);
    }

    /// The guest sends no more. The program sees the end of the stream once it has everything.
    pub fn end(&mut self, socket: &UnixStream) {
        self.ended = true;
        self.close_if_over(socket);
    }

    /// The program takes no more: what was kept for it is dropped.
    pub fn close(&mut self) {
        self.closed = true;
        self.forward(self.backlog.len());
        self.backlog = VecDeque::new();
    }

    /// Whether the program takes no more, or has everything there will be.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the guest should be told how far its data went.
    pub fn credit_is_due(&self) -> bool {
        !self.ended && self.forwarded.wrapping_sub(self.told) >= self.window / 4
    }

    /// What the guest is to know, as `buf_alloc` and `fwd_cnt`.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.window, self.forwarded)
    }

    /// Bytes that may be kept, beyond those that are.
    fn room(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX).saturating_sub(self.backlog.len())
    }

    /// How much a write to the socket sent. One that failed for good closes the stream.
    fn judge(&mut self, written: io::Result<usize>) -> usize {
        match written {
            Ok(sent) => sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.close();
                0
            }
        }
    }

    fn forward(&mut self, bytes: usize) {
        // A window fits into 32 bits, so whatever was in it does.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Keeps `data` but for its first `sent` bytes.
    fn keep(&mut self, data: &[VolatileSlice<'_>], sent: usize) {
        let mut skip = sent;
        for piece in data {
            let mut at = skip.min(piece.len());
            skip = skip.saturating_sub(at);
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = piece.read(&mut chunk, at) {
                // At once, so that it is never moved to where there is more room, nor takes more than is needed.
                let room = self.room();
                self.backlog.reserve_exact(room);
                self.backlog.extend(chunk.iter().take(count));
                at = at.saturating_add(count);
            }
        }
    }

    fn close_if_over(&mut self, socket: &UnixStream) {
        if self.ended && self.backlog.is_empty() && !self.closed {
            self.closed = true;
            // Fails when the program is gone: then the stream is closed all the same.
            socket.shutdown(Shutdown::Write).ok();
        }
    }
}
