//! What the driver reads and writes in the register block (virtio 1.2, section 4.2.2), and when.

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
use virtio_queue::{Queue, QueueT};

use super::{DRIVER, DRIVER_OK, FAILED, FEATURES_OK, MmioTransport, QUEUE_NOTIFY};
use crate::bus::BusDevice;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The non-legacy interface.
const VERSION: u32 = 2;
/// "rvm\0", ours.
const VENDOR: u32 = u32::from_le_bytes(*b"rvm\0");

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

impl MmioTransport {
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
