//! Virtio devices (virtio 1.2), apart from the transport that shows them to the guest.
//!
//! ```text
//!  guest driver ── registers ──> mmio (vCPU thread): negotiation, queue addresses, status
//!                                  │ DRIVER_OK: Activation by value        ▲ reset: Activation comes back
//!                                  ▼                                       │
//!                                worker (one thread a device): VirtioDevice::run
//!  guest driver ── kick ───────> ioeventfd ──> rings ──> host descriptor ──> used ring ──> irqfd
//! ```
//!
//! A device says what it is ([`VirtioDevice`]) and works on the queues it is given until told to stop. It
//! knows neither registers nor threads. The queues cannot change under it: it owns them while it runs.

pub mod balloon;
pub mod block;
pub mod buffers;
pub mod config_space;
pub mod fs;
pub mod interrupt;
pub mod mmio;
pub mod net;
pub mod rng;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;
pub mod worker;

use std::io;
use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::jail::Within;

pub use config_space::ConfigSpace;
pub use interrupt::Interrupt;
pub use stats::DeviceStats;

/// Device types by their number in virtio 1.2, section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// Network card (5.1).
    Net = 1,
    /// Block device (5.2).
    Block = 2,
    /// Entropy device (5.4).
    Rng = 4,
    /// Memory balloon (5.5).
    Balloon = 5,
    /// Socket device (5.10).
    Vsock = 19,
    /// File system device (5.11).
    Fs = 26,
}

impl DeviceKind {
    /// The word for the device in messages, thread names and statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
            Self::Fs => "fs",
        }
    }
}

/// A virtio device as every transport sees it.
pub trait VirtioDevice: Send {
    /// Which device this is.
    fn kind(&self) -> DeviceKind;

    /// Feature bits offered, those of the transport ([`mmio`] adds `VIRTIO_F_VERSION_1`) left out.
    fn features(&self) -> u64;

    /// Largest size of each queue, in descriptors (powers of two); its length is the number of queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// The device-specific configuration space.
    fn config(&self) -> Arc<ConfigSpace>;

    /// Counters of the device's work.
    fn stats(&self) -> Arc<DeviceStats>;

    /// Serves the queues until `activation.stop` is readable, then returns with nothing in flight: no
    /// descriptor popped and not yet used, no host I/O on guest memory.
    ///
    /// What happened so far stays in `self` and in the queues, so that a later call with the same activation
    /// goes on where this one ended (pause). An error means that the driver must reset the device.
    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError>;

    /// Has `within` give each directory anew that the device looks names up in while it runs, and each file that it opens
    /// again. Called before the first activation.
    fn relocate(&mut self, _within: Within<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Back to the state before the first activation, by taking `self` apart: a new field has to say what a reset means
    /// for it. Called while not running.
    fn reset(&mut self);

    /// Undoes, on the device's thread before it ends, what no other thread may.
    fn close(&mut self) {}
}

/// What a driver's DRIVER_OK hands to a device: owned by the device while it runs.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemoryMmap,
    /// The feature bits both sides agreed on.
    pub features: u64,
    /// How to tell the driver that something happened.
    pub interrupt: Interrupt,
    /// The queues, by their index. A queue that the driver did not set up is there and not ready.
    pub queues: Vec<VirtQueue>,
    /// Readable when the device shall stop.
    pub stop: EventFd,
}

/// A queue together with the event by which the driver says that it put buffers in.
pub struct VirtQueue {
    /// The rings.
    pub ring: Queue,
    /// Written by KVM when the guest notifies this queue.
    pub kick: EventFd,
}

impl VirtQueue {
    /// Whether the driver set this queue up.
    pub fn ready(&self) -> bool {
        self.ring.ready()
    }

    /// Gives each available chain to `work`, which answers how many bytes it wrote, and puts it into the used
    /// ring. Answers whether the driver wants an interrupt.
    ///
    /// Takes at most one ring's worth, so that a driver that never stops posting cannot keep the worker from
    /// hearing that it shall stop; what is left is taken after the next wait.
    pub fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        mut work: impl FnMut(DescriptorChain<&GuestMemoryMmap>) -> u32,
    ) -> Result<bool, virtio_queue::Error> {
        self.ring.disable_notification(memory)?;
        for _ in 0..self.ring.size() {
            let Some(chain) = self.ring.iter(memory)?.next() else {
                break;
            };
            let head = chain.head_index();
            let written = work(chain);
            self.ring.add_used(memory, head, written)?;
        }
        if self.ring.enable_notification(memory)? {
            // More came: a full counter is a kick already.
            self.kick.write(1).ok();
        }
        self.ring.needs_notification(memory)
    }
}

/// Why a device cannot go on; it then asks for a reset (DEVICE_NEEDS_RESET).
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver broke the rules of a queue so that its place in it is lost.
    #[error("queue {index} of the guest is broken")]
    Queue {
        /// The queue's index.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// The driver made a chain available that has no place for the device's answer.
    #[error("the chain at descriptor {head} of queue {index} cannot be answered")]
    Chain {
        /// The queue's index.
        index: usize,
        /// The chain's first descriptor.
        head: u16,
    },
    /// The driver made a chain available that the device has not given back yet.
    #[error("the chain at descriptor {head} of queue {index} is in flight already")]
    HeadInFlight {
        /// The queue's index.
        index: usize,
        /// The chain's first descriptor.
        head: u16,
    },
    /// A queue that the device cannot work without was not set up.
    #[error("the driver did not set up queue {0}")]
    QueueMissing(usize),
    /// The host failed the device.
    #[error("the host cannot {attempt}")]
    Host {
        /// What was attempted, as "wait for events".
        attempt: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl DeviceError {
    /// For `map_err`: the host's failure of `attempt`.
    pub fn host(attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { attempt, source }
    }

    /// For `map_err`: the queue at `index` is broken.
    pub fn queue(index: usize) -> impl FnOnce(virtio_queue::Error) -> Self {
        move |source| Self::Queue { index, source }
    }
}
