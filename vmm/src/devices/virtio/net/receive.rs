//! From the host to the guest: queue 0, receiveq1 (virtio 1.2, section 5.1.6.3).
//!
//! Buffers are taken from the ring ahead of the packets and kept in a window, so that one readv(2) puts a
//! packet straight where the guest wants it. How long a packet is shows only after it was read: one that does
//! not fit the window is kept back in memory of the host, until the driver posts enough buffers. There is at
//! most one such packet, and no other is read meanwhile.
//!
//! ```text
//!   avail ring ──gather──> window ──readv──> used ring
//!                             └── too small ──> kept back ──copy──> window ──> used ring
//! ```

use std::collections::VecDeque;
use std::io;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF};
use virtio_queue::{Error, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::host::HostEnd;
use super::offload::{FLAGS, HEADER_SIZE, NUM_BUFFERS, bit};
use super::parts::{Access, BadChain, Parts};
use super::used::UsedRing;
use super::{LONGEST_FRAME, Wait};
use crate::devices::virtio::{DeviceStats, VirtQueue};

/// Most bytes of a packet with its header.
const LONGEST: usize = LONGEST_FRAME + HEADER_SIZE;
/// Pieces of memory from which on no more buffers are gathered. One chain may still add up to a queue's size.
const ENOUGH_PARTS: usize = 512;

/// A packet that the guest had no room for yet. Outlives a pause.
pub struct KeptBack {
    bytes: Box<[u8]>,
    length: Option<usize>,
}

/// The receiving half of a card while it runs.
pub struct Receiver<'m> {
    memory: &'m GuestMemoryMmap,
    queue: &'m mut VirtQueue,
    used: UsedRing,
    stats: &'m DeviceStats,
    features: u64,
    kept_back: &'m mut KeptBack,
    window: Parts<'m>,
    /// The chains that the window is made of.
    chains: VecDeque<Chain>,
    /// Bytes that fit the window.
    room: usize,
    /// The chains of one packet, on their way to the used ring.
    filled: Vec<(u16, u32)>,
}

struct Chain {
    head: u16,
    parts: usize,
    length: usize,
}

/// How gathering ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Window {
    /// As much room as any packet takes, or as much as this driver can give.
    Full,
    /// The ring is empty.
    RingEmpty,
}

impl KeptBack {
    /// No packet.
    pub fn new() -> Self {
        // Fresh pages of zeros: they cost memory once a packet has to be kept.
        Self { bytes: vec![0; LONGEST].into_boxed_slice(), length: None }
    }

    /// Forgets the packet.
    pub fn clear(&mut self) {
        self.length = None;
    }
}

impl<'m> Receiver<'m> {
    /// Receives into the buffers of `queue` for a driver that took `features`.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        queue: &'m mut VirtQueue,
        features: u64,
        stats: &'m DeviceStats,
        kept_back: &'m mut KeptBack,
    ) -> Self {
        let (used, window) = (UsedRing::new(&queue.ring), Parts::new(memory));
        let (chains, filled) = (VecDeque::new(), Vec::new());
        Self { memory, queue, used, stats, features, kept_back, window, chains, room: 0, filled }
    }

    /// The event of the driver's kicks.
    pub fn queue(&self) -> &VirtQueue {
        self.queue
    }

    /// Moves packets to the guest, a ring's worth at most.
    pub fn receive(&mut self, host: &mut HostEnd) -> Result<Wait, Error> {
        self.queue.ring.disable_notification(self.memory)?;
        for _ in 0..self.queue.ring.size() {
            let window = self.gather()?;
            let too_small = self.kept_back.length.map_or(self.chains.is_empty(), |length| length > self.room);
            if too_small && window == Window::RingEmpty {
                if self.queue.ring.enable_notification(self.memory)? {
                    self.queue.ring.disable_notification(self.memory)?;
                    continue;
                }
                return Ok(Wait::Kick);
            }
            if let Some(length) = self.kept_back.length.take() {
                self.deliver_kept_back(length)?;
                continue;
            }
            match self.read(host) {
                Ok(length) => self.deliver(length)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Wait::Host),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Wait::HostLost(error)),
            }
        }
        Ok(Wait::Nothing)
    }

    /// Whether the driver wants an interrupt for what it was given since the last call.
    pub fn wants_interrupt(&mut self) -> Result<bool, Error> {
        self.used.wants_interrupt(&self.queue.ring, self.memory)
    }

    /// Puts the buffers that hold no packet back where they were taken from.
    pub fn give_back(self) {
        let count = u16::try_from(self.chains.len()).expect("a window has at most ENOUGH_PARTS chains");
        let next = self.queue.ring.next_avail().wrapping_sub(count);
        self.queue.ring.set_next_avail(next);
    }

    /// Takes buffers from the ring: with mergeable buffers enough for any packet, otherwise one.
    fn gather(&mut self) -> Result<Window, Error> {
        let wanted = if self.features & bit(VIRTIO_NET_F_MRG_RXBUF) == 0 { 1 } else { LONGEST };
        while self.room < wanted && self.window.len() < ENOUGH_PARTS {
            let ring = &mut self.queue.ring;
            if self.chains.len() >= usize::from(ring.size()) {
                return Ok(Window::Full);
            }
            let Some(chain) = ring.iter(self.memory)?.next() else {
                return Ok(Window::RingEmpty);
            };
            let (head, before) = (chain.head_index(), self.window.len());
            match self.window.add(chain, Access::Write).and_then(at_least_a_header) {
                Ok(length) => {
                    self.chains.push_back(Chain { head, parts: self.window.len() - before, length });
                    self.room += length;
                }
                Err(BadChain) if self.chains.is_empty() => {
                    self.window.clear();
                    self.stats.errors.add(1);
                    self.used.publish(&mut self.queue.ring, self.memory, &[(head, 0)])?;
                    return Ok(Window::RingEmpty);
                }
                Err(BadChain) => {
                    // Buffers are used in order: its turn comes when those before it are filled.
                    self.window.truncate(before);
                    self.queue.ring.go_to_previous_position();
                    return Ok(Window::Full);
                }
            }
        }
        Ok(Window::Full)
    }

    /// Reads one packet into the window, and what does not fit into its place in `kept_back`.
    fn read(&mut self, host: &mut HostEnd) -> io::Result<usize> {
        let rest = self.kept_back.bytes.get_mut(self.room..).unwrap_or_default();
        host.read(&mut self.window, self.room, rest)
    }

    /// Gives the guest the packet of `length` bytes that was read into the window, or keeps it back.
    fn deliver(&mut self, length: usize) -> Result<(), Error> {
        if length < HEADER_SIZE {
            self.stats.errors.add(1);
            return Ok(());
        }
        if length <= self.room {
            return self.publish(length);
        }
        self.window.copy_out(&mut self.kept_back.bytes);
        self.kept_back.length = Some(length);
        Ok(())
    }

    /// Gives the guest the packet that was kept back, or drops it where it will never fit.
    fn deliver_kept_back(&mut self, length: usize) -> Result<(), Error> {
        if length > self.room {
            self.stats.errors.add(1);
            return Ok(());
        }
        self.window.copy_in(0, self.kept_back.bytes.get(..length).unwrap_or_default());
        self.publish(length)
    }

    /// Hands the buffers with the packet of `length` bytes at the start of the window to the driver.
    fn publish(&mut self, length: usize) -> Result<(), Error> {
        self.filled.clear();
        let (mut left, mut parts) = (length, 0);
        while left > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let written = left.min(chain.length);
            left -= written;
            parts += chain.parts;
            self.room -= chain.length;
            self.filled.push((chain.head, u32::try_from(written).unwrap_or(u32::MAX)));
        }
        let buffers = u16::try_from(self.filled.len()).unwrap_or(u16::MAX);
        self.window.copy_in(NUM_BUFFERS, &buffers.to_le_bytes());
        if self.features & bit(VIRTIO_NET_F_GUEST_CSUM) == 0 {
            // The tap says that a checksum is known to be right also to a driver that did not ask.
            self.window.copy_in(FLAGS, &[0]);
        }
        self.used.publish(&mut self.queue.ring, self.memory, &self.filled)?;
        self.window.remove_front(parts);
        self.stats.operations.add(1);
        self.stats.bytes_in.add(length.saturating_sub(HEADER_SIZE) as u64);
        Ok(())
    }
}

/// A buffer holds a header at least (5.1.6.3.1).
fn at_least_a_header(length: usize) -> Result<usize, BadChain> {
    if length < HEADER_SIZE { Err(BadChain) } else { Ok(length) }
}
