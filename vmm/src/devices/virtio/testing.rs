//! A driver for virtio devices, in this process: it speaks to a device through the registers and the rings in
//! guest memory, as the driver of a guest does. For unit tests and fuzz targets.
//!
//! Waits end with a panic after [`PATIENCE`], so that a device that never answers fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a driver for tests: whatever fails is the test's failure"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::VirtioDevice;
use super::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::bus::BusDevice;

/// How long a driver waits for its device.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Memory of the driver's machine.
pub const MEMORY_SIZE: usize = 16 << 20;

/// Queue size that the driver asks for unless it is told otherwise.
const QUEUE_SIZE: u16 = 64;

/// One part of a descriptor chain.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The device reads this many bytes at the address.
    Readable(u64, u32),
    /// The device writes up to this many bytes at the address.
    Writable(u64, u32),
    /// A table of descriptors, of this many bytes at the address.
    Indirect(u64, u32),
}

/// A machine with one device, and the device's driver.
pub struct Driver {
    /// The guest's memory. The rings are in its first mebibyte; [`Driver::allocate`] gives the rest.
    pub memory: GuestMemoryMmap,
    /// The device behind its registers.
    pub transport: MmioTransport,
    /// Size that it asks of each queue when it initialises the device, 1024 at most.
    pub queue_size: u16,
    queues: Vec<DriverQueue>,
    free: u64,
}

#[derive(Default)]
struct DriverQueue {
    size: u16,
    descriptors: u64,
    avail: u64,
    used: u64,
    next_descriptor: u16,
    next_avail: u16,
    next_used: u16,
}

impl Driver {
    /// A machine with `device`, not yet initialised.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, &[(GuestAddress(0), MEMORY_SIZE)])
    }

    /// The same, with memory at other places besides. The driver itself uses the first [`MEMORY_SIZE`] bytes.
    pub fn with_memory(device: Box<dyn VirtioDevice>, regions: &[(GuestAddress, usize)]) -> Self {
        Self::confined(device, regions, || ())
    }

    /// The same, the device's thread bound by `confine`.
    pub fn confined(
        device: Box<dyn VirtioDevice>,
        regions: &[(GuestAddress, usize)],
        confine: impl FnOnce() + Send + 'static,
    ) -> Self {
        let memory = GuestMemoryMmap::from_ranges(regions).unwrap();
        let transport = MmioTransport::new(device, memory.clone(), confine).unwrap();
        Self { memory, transport, queue_size: QUEUE_SIZE, queues: Vec::new(), free: 1 << 20 }
    }

    /// A machine whose driver has accepted `features` of what `device` offers, and set up every queue.
    pub fn start(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.initialise(features);
        driver
    }

    /// Goes through the initialisation of virtio 1.2, section 3.1, from reset to DRIVER_OK.
    pub fn initialise(&mut self, features: u64) {
        self.set_register(VIRTIO_MMIO_STATUS, 0);
        self.set_register(VIRTIO_MMIO_STATUS, 1);
        self.set_register(VIRTIO_MMIO_STATUS, 3);
        for (page, wanted) in [(0, features), (1, features >> 32 | 1 << (VIRTIO_F_VERSION_1 - 32))] {
            self.set_register(VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
            let offered = self.register(VIRTIO_MMIO_DEVICE_FEATURES);
            self.set_register(VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            let wanted = u32::try_from(wanted & u64::from(u32::MAX)).unwrap();
            self.set_register(VIRTIO_MMIO_DRIVER_FEATURES, offered & wanted);
        }
        self.set_register(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.register(VIRTIO_MMIO_STATUS), 11, "the device took the features");
        self.queues = (0..self.transport.kicks().len()).map(|index| self.set_up_queue(index)).collect();
        self.set_register(VIRTIO_MMIO_STATUS, 15);
    }

    /// The feature bits that the device offers.
    pub fn offered(&mut self) -> u64 {
        let [low, high] = [0, 1].map(|page| {
            self.set_register(VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
            u64::from(self.register(VIRTIO_MMIO_DEVICE_FEATURES))
        });
        low | high << 32
    }

    fn set_up_queue(&mut self, index: usize) -> DriverQueue {
        let base = 0x1_0000 * (u32::try_from(index).unwrap() + 1);
        let (avail, used) = (base + 0x4000, base + 0x8000);
        self.memory.write_slice(&[0; 0xc000], GuestAddress(base.into())).unwrap();
        self.set_register(VIRTIO_MMIO_QUEUE_SEL, u32::try_from(index).unwrap());
        self.set_register(VIRTIO_MMIO_QUEUE_NUM, self.queue_size.into());
        self.set_register(VIRTIO_MMIO_QUEUE_DESC_LOW, base);
        self.set_register(VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
        self.set_register(VIRTIO_MMIO_QUEUE_USED_LOW, used);
        self.set_register(VIRTIO_MMIO_QUEUE_READY, 1);
        let [descriptors, avail, used] = [base, avail, used].map(u64::from);
        DriverQueue { size: self.queue_size, descriptors, avail, used, ..Default::default() }
    }

    /// Reads a 32-bit register.
    pub fn register(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a 32-bit register.
    pub fn set_register(&mut self, offset: u32, value: u32) {
        self.transport.write(offset.into(), &value.to_le_bytes());
    }

    /// `length` bytes of memory of their own, zeroed until given back ([`Self::rewind`]).
    pub fn allocate(&mut self, length: usize) -> u64 {
        let address = self.free;
        self.free += (length as u64).next_multiple_of(16);
        assert!(self.free <= MEMORY_SIZE as u64, "the test's machine is out of memory");
        address
    }

    /// Gives back what was allocated at `address` and after it.
    pub fn rewind(&mut self, address: u64) {
        self.free = address;
    }

    /// Memory of its own holding `bytes`.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        address
    }

    /// The `length` bytes at `address`.
    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Makes a chain of `parts` available on `queue`, without a kick; gives its head. Descriptors are taken
    /// round robin: keep fewer than the queue's size in flight.
    pub fn submit(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let ring = &mut self.queues[queue];
        let head = ring.next_descriptor;
        for (index, part) in parts.iter().enumerate() {
            let this = ring.next_descriptor;
            ring.next_descriptor = (this + 1) % ring.size;
            let (address, length, write) = match *part {
                Part::Readable(address, length) => (address, length, 0_u16),
                Part::Writable(address, length) => (address, length, 2),
                Part::Indirect(address, length) => (address, length, 4),
            };
            let next = u16::from(index + 1 < parts.len());
            let at = ring.descriptors + 16 * u64::from(this);
            write_descriptor(&self.memory, at, address, length, write | next, ring.next_descriptor);
        }
        self.repost(queue, head);
        head
    }

    /// Writes descriptor `index` of `queue` as it is given: address, length, flags, next.
    pub fn set_descriptor(&mut self, queue: usize, index: u16, fields: (u64, u32, u16, u16)) {
        let at = self.queues[queue].descriptors + 16 * u64::from(index);
        let (address, length, flags, next) = fields;
        write_descriptor(&self.memory, at, address, length, flags, next);
    }

    /// Makes the chain at `head` available again, whether or not the device has used it.
    pub fn repost(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let slot = GuestAddress(ring.avail + 4 + 2 * u64::from(ring.next_avail % ring.size));
        self.memory.write_obj(head, slot).unwrap();
        ring.next_avail = ring.next_avail.wrapping_add(1);
        // The ring entry is visible before the index that covers it.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory.write_obj(ring.next_avail, GuestAddress(ring.avail + 2)).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Notifies the device of `queue`.
    pub fn kick(&mut self, queue: usize) {
        self.transport.write(QUEUE_NOTIFY, &u32::try_from(queue).unwrap().to_le_bytes());
    }

    /// The next used chain of `queue`, as head and bytes written, if there is one.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.queues[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.used + 2)).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if index == ring.next_used {
            return None;
        }
        let at = GuestAddress(ring.used + 4 + 8 * u64::from(ring.next_used % ring.size));
        ring.next_used = ring.next_used.wrapping_add(1);
        // used_event: with VIRTIO_RING_F_EVENT_IDX, interrupt for the next one.
        let used_event = GuestAddress(ring.avail + 4 + 2 * u64::from(ring.size));
        self.memory.write_obj(ring.next_used, used_event).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let head: u32 = self.memory.read_obj(at).unwrap();
        let written: u32 = self.memory.read_obj(GuestAddress(at.0 + 4)).unwrap();
        Some((u16::try_from(head).unwrap(), written))
    }

    /// Waits for interrupts until `queue` has a used chain.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        loop {
            if let Some(used) = self.used(queue) {
                return used;
            }
            self.wait_interrupt();
        }
    }

    /// Submits a chain, kicks, and waits until it is used: the bytes written.
    pub fn request(&mut self, queue: usize, parts: &[Part]) -> u32 {
        let head = self.submit(queue, parts);
        self.kick(queue);
        let (used, written) = self.wait_used(queue);
        assert_eq!(used, head, "the chain used is the one submitted");
        written
    }

    /// Waits for an interrupt and acknowledges it; gives its reasons.
    pub fn wait_interrupt(&mut self) -> u32 {
        let event = self.transport.interrupt().irqfd();
        wait_readable(event, PATIENCE).expect("the device raised no interrupt in time");
        event.read().unwrap();
        let reasons = self.register(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set_register(VIRTIO_MMIO_INTERRUPT_ACK, reasons);
        reasons
    }

    /// Waits until the device asks for a reset.
    pub fn wait_needs_reset(&mut self) {
        while self.register(VIRTIO_MMIO_STATUS) & 64 == 0 {
            self.wait_interrupt();
        }
    }
}

/// A random sequence that is the same in every run (xorshift64).
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Writes a descriptor (virtio 1.2, section 2.7.5) at `at`.
fn write_descriptor(memory: &GuestMemoryMmap, at: u64, address: u64, length: u32, flags: u16, next: u16) {
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// Waits until `fd` is readable. An error of kind `TimedOut` when it is not in time.
pub fn wait_readable(fd: &impl AsRawFd, patience: Duration) -> io::Result<()> {
    let mut poller = crate::event_loop::Poller::new()?;
    poller.add(fd, 0, vmm_sys_util::epoll::EventSet::IN)?;
    let end = Instant::now() + patience;
    // A wait also ends, with nothing, for a signal, or when the kernel takes a ring of this thread's apart.
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let left = i32::try_from(left.as_millis()).unwrap();
        if poller.wait(left.max(1))?.next().is_some() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
