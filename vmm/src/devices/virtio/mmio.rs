//! The memory-mapped transport (virtio 1.2, section 4.2): one register block a device.
//!
//! Owns the negotiation: device status, features, and the queue registers until DRIVER_OK. From then on the
//! queues belong to the device's worker and their registers are frozen; a reset takes them back.
//!
//! ```text
//!  write to Status      allowed when             effect
//!  0                    always                   stop the worker, forget everything
//!  + ACKNOWLEDGE        after reset
//!  + DRIVER             after ACKNOWLEDGE        driver features may be written
//!  + FEATURES_OK        after DRIVER             kept only if the features are ones we offered, with VERSION_1
//!  + DRIVER_OK          after FEATURES_OK        queues are checked and handed over
//!  + FAILED             always                   the driver gave up: nothing but a reset is listened to
//! ```
//!
//! Bits are only added; a write that takes a bit away or jumps ahead changes nothing. What the worker cannot
//! recover from sets DEVICE_NEEDS_RESET, which the driver reads here. The registers one by one: `registers`.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use std::io;
use std::sync::Arc;

use super::worker::Worker;
use super::{Activation, ConfigSpace, DeviceKind, DeviceStats, Interrupt, VirtQueue, VirtioDevice};

mod registers;
mod state;

pub use state::{Registers, State};

/// Bytes of address space a device takes.
pub const REGISTERS_SIZE: u64 = 0x1000;
/// Offset of the register whose writes, with the queue's index as value, are kicks.
pub const QUEUE_NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// A device behind its registers.
pub struct MmioTransport {
    kind: DeviceKind,
    offered: u64,
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
    interrupt: Interrupt,
    worker: Worker,
    memory: GuestMemoryMmap,
    kicks: Vec<EventFd>,
    /// Queues under configuration, one a kick. Empty while the worker has them.
    queues: Vec<Queue>,
    state: Registers,
    /// What the worker gave back at a pause; runs again at resume.
    paused: Option<Activation>,
    running: bool,
}

impl MmioTransport {
    /// Puts `device` behind registers, on a worker whose thread first calls `confine`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        confine: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (config, stats) = (device.config(), device.stats());
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK)?, stats.clone());
        let sizes = device.queue_sizes();
        let kicks = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?;
        let queues = sizes.iter().map(|size| new_queue(*size)).collect();
        let (kind, offered) = (device.kind(), device.features() | 1 << VIRTIO_F_VERSION_1);
        let worker = Worker::spawn(device, confine)?;
        let (state, paused, running) = (Registers::default(), None, false);
        Ok(Self {
            kind,
            offered,
            config,
            stats,
            interrupt,
            worker,
            memory,
            kicks,
            queues,
            state,
            paused,
            running,
        })
    }

    /// Which device is behind the registers.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The device's counters.
    pub fn stats(&self) -> &Arc<DeviceStats> {
        &self.stats
    }

    /// The device's interrupt line.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The kick of each queue, by its index: to be written when the guest writes the index to
    /// [`QUEUE_NOTIFY`].
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Stops the device where it is, its queues kept for [`Self::resume`].
    pub fn pause(&mut self) {
        if self.running {
            self.running = false;
            self.paused = self.worker.stop();
        }
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&mut self) {
        if let Some(activation) = self.paused.take() {
            self.running = self.worker.start(activation);
            // What was kicked while paused is still in the events; the first wait of the device finds it.
        }
    }

    /// Ends the worker, and takes the transport apart: the device, and what its driver has made of the rest.
    pub fn into_parts(mut self) -> (Box<dyn VirtioDevice>, State) {
        self.pause();
        let Self {
            interrupt,
            worker,
            queues,
            state,
            paused,
            kind: _,
            offered: _,
            config: _,
            stats: _,
            memory: _,
            kicks: _,
            running: _,
        } = self;
        let queues = paused.map_or(queues, rings).iter().map(Queue::state).collect();
        let (interrupt_status, reset_asked) = (interrupt.status(), interrupt.reset_asked());
        (worker.join(), State { registers: state, queues, interrupt_status, reset_asked })
    }

    fn status(&self) -> u32 {
        let broken = if self.interrupt.reset_asked() { NEEDS_RESET } else { 0 };
        self.state.status | broken
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let old = self.state.status;
        let added = value & !old & !NEEDS_RESET;
        if old & FAILED != 0 || old & !value != 0 {
            return self.refuse("status", value);
        }
        match (old & !FAILED, added) {
            (_, FAILED) | (0, ACKNOWLEDGE) => self.state.status |= added,
            (_, _) if old | added == ACKNOWLEDGE | DRIVER => self.state.status |= added,
            (old, FEATURES_OK) if old == ACKNOWLEDGE | DRIVER => self.accept_features(),
            (old, DRIVER_OK) if old == ACKNOWLEDGE | DRIVER | FEATURES_OK => self.activate(),
            (_, 0) => {}
            _ => self.refuse("status", value),
        }
    }

    /// FEATURES_OK stays only when the driver chose among what is offered, and the modern interface.
    fn accept_features(&mut self) {
        let features = self.state.driver_features;
        if features & !self.offered == 0 && features & 1 << VIRTIO_F_VERSION_1 != 0 {
            self.state.status |= FEATURES_OK;
        }
    }

    /// DRIVER_OK: the queues, checked, go to the worker.
    fn activate(&mut self) {
        self.state.status |= DRIVER_OK;
        if let Some(index) =
            self.queues.iter().position(|queue| queue.ready() && !queue.is_valid(&self.memory))
        {
            log::warn!("{} device: queue {index} lies outside of memory", self.kind.name());
            return self.interrupt.ask_for_reset();
        }
        match self.activation() {
            Ok(activation) => self.running = self.worker.start(activation),
            Err(error) => {
                log::warn!("{} device: cannot hand over the queues: {error}", self.kind.name());
                self.interrupt.ask_for_reset();
            }
        }
    }

    fn activation(&mut self) -> io::Result<Activation> {
        let features = self.state.driver_features;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let stop = self.worker.stop_event()?;
        let kicks = self.kicks.iter().map(EventFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        let queues = std::mem::take(&mut self.queues).into_iter().zip(kicks);
        let queues = queues
            .map(|(mut ring, kick)| {
                ring.set_event_idx(event_idx);
                VirtQueue { ring, kick }
            })
            .collect();
        let (memory, interrupt) = (self.memory.clone(), self.interrupt.clone());
        Ok(Activation { memory, features, interrupt, queues, stop })
    }

    fn reset(&mut self) {
        self.pause();
        // The device's own part it resets itself.
        let Self {
            interrupt,
            worker,
            queues,
            state,
            paused,
            kicks,
            kind: _,
            offered: _,
            config: _,
            stats: _,
            memory: _,
            running: _,
        } = self;
        if let Some(activation) = paused.take() {
            *queues = rings(activation);
        }
        queues.iter_mut().for_each(Queue::reset);
        worker.reset();
        for kick in kicks {
            // Empty is what is wanted: a kick from before the reset means nothing after it.
            kick.read().ok();
        }
        interrupt.clear();
        *state = Registers::default();
    }

    fn refuse(&self, what: &str, value: u32) {
        log::debug!("{} device: the driver's write to {what} ({value:#x}) is out of turn", self.kind.name());
    }
}

/// The queues that a worker gave back.
fn rings(activation: Activation) -> Vec<Queue> {
    activation.queues.into_iter().map(|queue| queue.ring).collect()
}

/// A queue of at most `size` descriptors.
///
/// # Panics
/// When `size` is no power of two up to 32768: sizes are the devices' constants.
fn new_queue(size: u16) -> Queue {
    Queue::new(size).expect("a device's queue size is a power of two")
}

#[cfg(test)]
mod tests;
