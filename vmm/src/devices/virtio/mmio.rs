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
//! recover from sets DEVICE_NEEDS_RESET, which the driver reads here.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use std::io;
use std::sync::Arc;

use super::worker::Worker;
use super::{Activation, ConfigSpace, DeviceKind, DeviceStats, Interrupt, VirtQueue, VirtioDevice};
use crate::bus::BusDevice;

mod state;

pub use state::{Registers, State};

/// Bytes of address space a device takes.
pub const REGISTERS_SIZE: u64 = 0x1000;
/// Offset of the register whose writes, with the queue's index as value, are kicks.
pub const QUEUE_NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The non-legacy interface.
const VERSION: u32 = 2;
/// "rvm\0", ours.
const VENDOR: u32 = u32::from_le_bytes(*b"rvm\0");

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

    /// The selected queue while the driver may set it up: between FEATURES_OK and DRIVER_OK.
    fn queue_in_setup(&mut self) -> Option<&mut Queue> {
        if self.state.status & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.state.queue_select).ok()?)
    }

    fn set_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.queue_in_setup() else {
            return self.refuse("queue register", register);
        };
        match register {
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            // The addresses and the size of a queue that is ready do not change (4.2.3.2).
            _ if queue.ready() => self.refuse("register of a ready queue", register),
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => self.refuse("register", register),
        }
    }

    fn register(&self, register: u32) -> u32 {
        let queue = usize::try_from(self.state.queue_select).ok().filter(|index| *index < self.kicks.len());
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.kind as u32,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.state.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => {
                queue.and_then(|index| self.queues.get(index)).map_or(0, |queue| u32::from(queue.max_size()))
            }
            VIRTIO_MMIO_QUEUE_READY => {
                // A queue that the worker has is ready if it was at DRIVER_OK; drivers ask before that.
                queue.and_then(|index| self.queues.get(index)).map_or(0, |queue| u32::from(queue.ready()))
            }
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_STATUS => self.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => self.config.generation(),
            // No device has shared memory, which is a length of all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn set_register(&mut self, register: u32, value: u32) {
        let choosing_features = self.state.status & (DRIVER | FEATURES_OK | FAILED) == DRIVER;
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.state.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.state.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES if choosing_features => self.set_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.state.queue_select = value,
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            // Kicks come through ioeventfd; one that comes here names a queue that is not there.
            register if u64::from(register) == QUEUE_NOTIFY => self.kick(value),
            _ => self.set_queue(register, value),
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        let (shift, keep) = match self.state.driver_features_select {
            0 => (0, !0 << 32),
            1 => (32, u64::from(u32::MAX)),
            _ => return self.refuse("driver feature page", self.state.driver_features_select),
        };
        self.state.driver_features = self.state.driver_features & keep | u64::from(value) << shift;
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        if self.state.status & DRIVER != 0 {
            self.config.write_by_driver(offset as usize, data);
        }
    }

    fn kick(&self, index: u32) {
        if let Some(kick) = usize::try_from(index).ok().and_then(|index| self.kicks.get(index)) {
            // A full counter is a kick already.
            kick.write(1).ok();
        }
    }

    fn refuse(&self, what: &str, value: u32) {
        log::debug!("{} device: the driver's write to {what} ({value:#x}) is out of turn", self.kind.name());
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (u32::try_from(offset), data.len()) {
            (Ok(offset), _) if offset >= VIRTIO_MMIO_CONFIG => {
                self.config.read((offset - VIRTIO_MMIO_CONFIG) as usize, data);
            }
            // The driver shall use aligned 32-bit accesses (4.2.2.2); others read as zero.
            (Ok(offset), 4) => data.copy_from_slice(&self.register(offset).to_le_bytes()),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            (Ok(offset), _) if offset >= VIRTIO_MMIO_CONFIG => {
                self.write_config(offset - VIRTIO_MMIO_CONFIG, data)
            }
            (Ok(offset), Ok(data)) => self.set_register(offset, u32::from_le_bytes(data)),
            _ => {}
        }
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

/// The low (0) or high (1) 32 bits of `features`; further pages are empty.
fn half(features: u64, select: u32) -> u32 {
    let shift = match select {
        0 => 0,
        1 => 32,
        _ => return 0,
    };
    u32::try_from(features >> shift & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
