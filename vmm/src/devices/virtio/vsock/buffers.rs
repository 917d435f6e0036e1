//! The guest's buffers for packets to it: its receive queue.
//!
//! Buffers are taken, filled with headers and data, and used. One read from a socket fills several; those that it
//! leaves empty go back to the queue as if they had not been taken.

use virtio_queue::{Error, QueueOwnedT, QueueT};
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::chains::{Access, Pieces};
use super::packet::{HEADER_SIZE, Header};
use crate::devices::virtio::{DeviceStats, VirtQueue};

/// Most pieces of memory for one read. With one chain more, it is still what the kernel takes at once.
const MOST_PIECES: usize = 256;

/// The queue, and the buffers taken from it and not yet used.
pub struct Buffers<'m> {
    /// The queue.
    pub queue: &'m mut VirtQueue,
    memory: &'m GuestMemoryMmap,
    stats: &'m DeviceStats,
    taken: Vec<Buffer>,
    pieces: Pieces<'m>,
}

/// A buffer taken.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// How much data it is for, in bytes.
    pub capacity: usize,
    /// The index of its first descriptor.
    head: u16,
    /// Where its header's pieces begin.
    header: usize,
}

impl<'m> Buffers<'m> {
    /// The buffers of `queue` in `memory`.
    pub fn new(queue: &'m mut VirtQueue, memory: &'m GuestMemoryMmap, stats: &'m DeviceStats) -> Self {
        Self { queue, memory, stats, taken: Vec::new(), pieces: Pieces::default() }
    }

    /// Takes buffers, at least one and `most` at most, until they hold `bytes` of data. Answers false when there
    /// is none.
    pub fn take(&mut self, most: usize, bytes: usize) -> Result<bool, Error> {
        self.taken.clear();
        self.pieces.clear();
        let mut wanted = bytes;
        for _ in 0..self.queue.ring.size() {
            let enough = self.taken.len() >= most || wanted == 0 || self.pieces.data.len() >= MOST_PIECES;
            if enough && !self.taken.is_empty() {
                break;
            }
            let Some(chain) = self.queue.ring.iter(self.memory)?.next() else {
                break;
            };
            let (head, header, data) =
                (chain.head_index(), self.pieces.headers.len(), self.pieces.data.len());
            match self.pieces.add(self.memory, chain, Access::Write) {
                Some(room @ 1..) => {
                    let capacity = room.min(wanted);
                    self.pieces.truncate(data, capacity);
                    self.taken.push(Buffer { capacity, head, header });
                    wanted = wanted.saturating_sub(capacity);
                }
                // No packet with data fits. It goes back to the driver, in its turn.
                _ if self.taken.is_empty() => {
                    self.pieces.clear();
                    self.stats.errors.add(1);
                    self.queue.ring.add_used(self.memory, head, 0)?;
                }
                _ => {
                    self.pieces.headers.truncate(header);
                    self.queue.ring.go_to_previous_position();
                    break;
                }
            }
        }
        Ok(!self.taken.is_empty())
    }

    /// The buffers taken.
    pub fn taken(&self) -> &[Buffer] {
        &self.taken
    }

    /// Where the data goes, in the buffers taken.
    pub fn data(&self) -> &[VolatileSlice<'m>] {
        &self.pieces.data
    }

    /// Uses as many of the buffers taken as `bytes` of data filled, at least one, each with `header`.
    pub fn send(&mut self, header: Header, bytes: usize) -> Result<(), Error> {
        let (mut left, mut used) = (bytes, 0_usize);
        for buffer in &self.taken {
            if left == 0 && used > 0 {
                break;
            }
            let data = left.min(buffer.capacity);
            self.write_header(buffer, Header { len: in_u32(data), ..header });
            let written = in_u32(HEADER_SIZE.saturating_add(data));
            self.queue.ring.add_used(self.memory, buffer.head, written)?;
            self.stats.operations.add(1);
            left = left.saturating_sub(buffer.capacity);
            used = used.saturating_add(1);
        }
        self.stats.bytes_in.add(bytes as u64);
        self.give_back(used);
        Ok(())
    }

    /// Gives the buffers taken back to the queue, but for the first `used`.
    pub fn give_back(&mut self, used: usize) {
        for _ in self.taken.iter().skip(used) {
            self.queue.ring.go_to_previous_position();
        }
        self.taken.clear();
        self.pieces.clear();
    }

    fn write_header(&self, buffer: &Buffer, header: Header) {
        let bytes = header.to_bytes();
        let mut rest = bytes.as_slice();
        for piece in self.pieces.headers.iter().skip(buffer.header) {
            let (here, after) = rest.split_at_checked(piece.len()).unwrap_or((rest, &[]));
            piece.copy_from(here);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// A length within a chain, which is no longer than 2^32 bytes.
fn in_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
