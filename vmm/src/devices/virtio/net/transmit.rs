//! From the guest to the host: queue 1, transmitq1 (virtio 1.2, section 5.1.6.2).
//!
//! The header is copied and judged before the kernel sees it; the packet itself goes from guest memory to the
//! tap by one writev(2). Packets leave in the order they were posted. When the tap takes no more, the packet
//! stays in the ring until it does; what the tap refuses is dropped and counted.

use std::io;

use virtio_queue::{DescriptorChain, Error, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::host::HostEnd;
use super::offload::{FLAGS, HEADER_SIZE, NEEDS_CSUM, may_send};
use super::parts::{Access, Parts};
use super::{LONGEST_FRAME, Wait};
use crate::devices::virtio::{DeviceStats, VirtQueue};

/// The sending half of a card while it runs.
pub struct Transmitter<'m> {
    memory: &'m GuestMemoryMmap,
    queue: &'m mut VirtQueue,
    stats: &'m DeviceStats,
    features: u64,
    packet: Parts<'m>,
}

/// What became of a packet.
enum Sent {
    /// The tap took it, or it was dropped: its buffer is used.
    Done,
    /// The tap takes nothing now.
    Later,
    /// The tap is gone, and the packet with it.
    HostLost(io::Error),
}

impl<'m> Transmitter<'m> {
    /// Sends the packets in `queue` for a driver that took `features`.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        queue: &'m mut VirtQueue,
        features: u64,
        stats: &'m DeviceStats,
    ) -> Self {
        Self { memory, queue, stats, features, packet: Parts::new(memory) }
    }

    /// The event of the driver's kicks.
    pub fn queue(&self) -> &VirtQueue {
        self.queue
    }

    /// Moves packets to `host`, a ring's worth at most. Without it they are dropped.
    pub fn transmit(&mut self, mut host: Option<&mut HostEnd>) -> Result<Wait, Error> {
        self.queue.ring.disable_notification(self.memory)?;
        for _ in 0..self.queue.ring.size() {
            let Some(chain) = self.queue.ring.iter(self.memory)?.next() else {
                if self.queue.ring.enable_notification(self.memory)? {
                    self.queue.ring.disable_notification(self.memory)?;
                    continue;
                }
                return Ok(host.map_or(Wait::Kick, finish));
            };
            let head = chain.head_index();
            let sent = self.send(chain, host.as_deref_mut());
            if let Sent::Later = sent {
                self.queue.ring.go_to_previous_position();
                return Ok(Wait::Host);
            }
            self.queue.ring.add_used(self.memory, head, 0)?;
            if let Sent::HostLost(error) = sent {
                return Ok(Wait::HostLost(error));
            }
        }
        Ok(Wait::Nothing)
    }

    /// Whether the driver wants an interrupt for the packets taken since the last call.
    pub fn wants_interrupt(&mut self) -> Result<bool, Error> {
        self.queue.ring.needs_notification(self.memory)
    }

    fn send(&mut self, chain: DescriptorChain<&'m GuestMemoryMmap>, host: Option<&mut HostEnd>) -> Sent {
        self.packet.clear();
        let mut header = [0; HEADER_SIZE];
        let length = self.packet.add(chain, Access::Read).map_or(0, |length| length);
        let fits = length <= LONGEST_FRAME + HEADER_SIZE && self.packet.take(&mut header);
        let (true, true, Some(host)) = (fits, may_send(&header, self.features), host) else {
            self.stats.errors.add(1);
            return Sent::Done;
        };
        // What a driver has no right to say is not passed on (5.1.6.2.2).
        header[FLAGS] &= NEEDS_CSUM;
        loop {
            match host.write(&header, &mut self.packet) {
                Ok(()) => {
                    self.stats.operations.add(1);
                    self.stats.bytes_out.add(length.saturating_sub(HEADER_SIZE) as u64);
                    return Sent::Done;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Later,
                Err(error) => {
                    self.stats.errors.add(1);
                    return if host.is_lost(&error) { Sent::HostLost(error) } else { Sent::Done };
                }
            }
        }
    }
}

/// The driver's packets are all taken: what to wait for next, which is `host` if it has not taken the last one whole.
fn finish(host: &mut HostEnd) -> Wait {
    match host.flush() {
        Ok(()) => Wait::Kick,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Wait::Host,
        Err(error) => Wait::HostLost(error),
    }
}
