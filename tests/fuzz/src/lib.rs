//! A hostile driver: bytes of a fuzzer become what a guest can do to a virtio device behind its registers.
//!
//! It enters where a guest does: register accesses, bytes in guest memory, kicks. Besides raw accesses it knows
//! the shape of a driver's work (initialise, make a chain available, and whole requests where the target knows
//! them), so that the fuzzer need not find that out, and breaks it at any place. `targets/rng.rs` is a target
//! at its smallest.

use std::time::{Duration, Instant};

use rvm::bus::BusDevice;
use rvm::devices::virtio::VirtioDevice;
use rvm::devices::virtio::mmio::{QUEUE_NOTIFY, REGISTERS_SIZE};
use rvm::devices::virtio::testing::{Driver, Part};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Memory of the machine: two regions that meet, and one beyond a hole.
const REGIONS: [(GuestAddress, usize); 3] =
    [(GuestAddress(0), 8 << 20), (GuestAddress(8 << 20), 8 << 20), (GuestAddress(1 << 32), 1 << 20)];
/// Where chains find their data: slots of 64 bytes, written by the input.
const SLOTS: u64 = 0x20_0000;
const SLOT_SIZE: u64 = 64;
const SLOT_COUNT: u8 = 32;
/// Lengths that sums and comparisons go wrong at.
const LENGTHS: [u32; 8] = [0, 1, 16, 512, 4096, 0x7fff_ffff, 0x8000_0000, u32::MAX];
/// Bits of the device status (virtio 1.2, section 2.1).
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;
/// Offset of the status register (section 4.2.2).
const VIRTIO_MMIO_STATUS: u32 = 0x70;
/// Longest wait for a device to hear a kick. One that is broken by then hears none.
const PATIENCE: Duration = Duration::from_millis(50);

/// Lets `input` drive `device`. Gives the driver back, whose device may be in any state: initialised anew it has
/// to work, which the target then checks.
///
/// `request` makes the parts of a request that the device may well carry out, with its contents from the input
/// and in [`slot`]s; the driver makes it available on a queue of the input's choice.
pub fn attack(
    device: Box<dyn VirtioDevice>,
    input: &[u8],
    request: impl Fn(&GuestMemoryMmap, &mut Input) -> Vec<Part>,
) -> Driver {
    let driver = Driver::with_memory(device, &REGIONS);
    let mut hostile = Hostile { driver, input: Input(input), paused: false };
    // Most of what is interesting lies behind DRIVER_OK; the input may reset the device at once.
    hostile.driver.initialise(u64::MAX);
    while let Some(action) = hostile.input.byte() {
        match action % 20 {
            // More often than other actions: the way to the device's own code.
            16.. => {
                let parts = request(&hostile.driver.memory, &mut hostile.input);
                hostile.submit(&parts);
            }
            action => hostile.act(action),
        }
    }
    hostile.pause(false);
    hostile.driver
}

/// Where slot `index` is in guest memory: 64 bytes of the input's, of which there are 32.
pub fn slot(index: u8) -> u64 {
    SLOTS + SLOT_SIZE * u64::from(index % SLOT_COUNT)
}

struct Hostile<'a> {
    driver: Driver,
    input: Input<'a>,
    paused: bool,
}

/// The fuzzer's bytes; zeroes when there are no more.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// What a fuzzer gave.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte, if there is one.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// An address: mostly a slot's, sometimes where regions of memory begin and end, or over the rings.
    pub fn address(&mut self) -> u64 {
        let choice = self.u8();
        let (offset, near) = (u64::from(choice), self.u8());
        match near % 16 {
            0 => (8 << 20) - offset,
            1 => (16 << 20) - offset,
            2 => (16 << 20) + offset,
            3 => (1 << 32) - offset,
            4 => (1 << 32) + (1 << 20) - offset,
            5 => u64::MAX - offset,
            // Over the rings.
            6 => 0x1_0000 + (offset << 8),
            _ => slot(choice),
        }
    }

    /// A length: mostly a small one, sometimes one that sums and comparisons go wrong at.
    pub fn length(&mut self) -> u32 {
        let choice = self.u8();
        match choice {
            0..128 => u32::from(choice),
            _ => LENGTHS[usize::from(choice) % LENGTHS.len()].wrapping_add(u32::from(choice >> 3 & 1)),
        }
    }

    /// As many bytes as the next one says, but at most `most` and what there is.
    pub fn bytes(&mut self, most: usize) -> &[u8] {
        let length = usize::from(self.u8()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

impl Hostile<'_> {
    fn act(&mut self, action: u8) {
        match action {
            0 => self.write_register(),
            1 => self.read_register(),
            2 => self.initialise(),
            3 => self.write_memory(),
            4 => self.write_descriptor(),
            5 => self.repost(),
            6 => self.kick(),
            7 => self.kick_and_go_on(),
            8 => self.pause(true),
            9 => self.pause(false),
            10 => self.write_ring(),
            11 => self.write_memory_while_working(),
            12 | 13 => self.fill_slot(),
            _ => self.submit_anything(),
        }
    }

    fn write_register(&mut self) {
        let (offset, length) = self.access();
        let data: [u8; 8] = std::array::from_fn(|index| if index < length { self.input.u8() } else { 0 });
        self.driver.transport.write(offset, &data[..length]);
    }

    fn read_register(&mut self) {
        let (offset, length) = self.access();
        self.driver.transport.read(offset, &mut [0; 8][..length]);
    }

    /// Where a vCPU accesses the device and how long: half of the time one of its registers, else any bytes of the
    /// registers and of the configuration, or of the whole window.
    fn access(&mut self) -> (u64, usize) {
        let (place, length, offset) = (self.input.u8(), self.input.u8(), u64::from(self.input.u16()));
        let length = match length {
            0..192 => 1 << (length % 4),
            // A vCPU makes two of an access across the end of a page, each as long as it comes.
            _ => 1 + usize::from(length % 8),
        };
        match place % 4 {
            0 | 1 => (offset % 0x100 & !3, 4),
            2 => (offset % 0x200, length),
            // What goes past the window's end does not come to the device.
            _ => (offset % (REGISTERS_SIZE + 1 - length as u64), length),
        }
    }

    /// A proper initialisation, with any features of those offered.
    fn initialise(&mut self) {
        let features = match self.input.u8() {
            0 => u64::MAX,
            1 => 0,
            _ => u64::from(self.input.u32()) | u64::from(self.input.u32()) << 32,
        };
        self.driver.initialise(features);
        self.paused = false;
    }

    fn queue(&mut self) -> usize {
        usize::from(self.input.u8()) % self.driver.transport.kicks().len()
    }

    fn write_memory(&mut self) {
        let address = GuestAddress(self.input.address());
        let bytes = self.input.bytes(64);
        // Outside of memory there is nothing to write to.
        self.driver.memory.write(bytes, address).ok();
    }

    fn fill_slot(&mut self) {
        let address = slot(self.input.u8());
        let bytes = self.input.bytes(64);
        self.driver.memory.write(bytes, GuestAddress(address)).ok();
    }

    fn write_descriptor(&mut self) {
        let queue = self.queue();
        let index = u16::from(self.input.u8() % 64);
        let fields =
            (self.input.address(), self.input.length(), self.input.u16(), u16::from(self.input.u8()));
        self.driver.set_descriptor(queue, index, fields);
    }

    /// Over a queue's rings: indices that jump, heads that are none.
    fn write_ring(&mut self) {
        let queue = self.queue() as u64;
        let at = 0x1_0000 * (queue + 1) + 0x4000 + 2 * u64::from(self.input.u8());
        let value = self.input.u16();
        self.driver.memory.write_obj(value, GuestAddress(at)).ok();
    }

    fn repost(&mut self) {
        let queue = self.queue();
        let head = self.input.u16() % 80;
        self.driver.repost(queue, head);
    }

    /// A chain of any parts.
    fn submit_anything(&mut self) {
        let count = usize::from(self.input.u8()) % 8;
        let mut parts = Vec::new();
        for _ in 0..count {
            let (address, length) = (self.input.address(), self.input.length());
            parts.push(match self.input.u8() % 8 {
                0 => Part::Indirect(address, length),
                1..4 => Part::Readable(address, length),
                _ => Part::Writable(address, length),
            });
        }
        self.submit(&parts);
    }

    fn submit(&mut self, parts: &[Part]) {
        let queue = self.queue();
        if !parts.is_empty() {
            self.driver.submit(queue, parts);
        }
    }

    /// Kicks, and waits until the device has done what it does about it.
    fn kick(&mut self) {
        let queue = self.queue();
        let before = self.driver.transport.stats().kicks.get();
        self.notify(queue);
        let end = Instant::now() + PATIENCE;
        while self.running() && self.driver.transport.stats().kicks.get() == before && Instant::now() < end {
            std::thread::yield_now();
        }
        // A device that is stopped has finished what it had begun.
        if !self.paused {
            self.pause(true);
            self.pause(false);
        }
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
        match paused {
            true => self.driver.transport.pause(),
            false => self.driver.transport.resume(),
        }
    }

    /// Kicks, and goes on with what comes next while the device works.
    fn kick_and_go_on(&mut self) {
        let queue = self.queue();
        self.notify(queue);
    }

    fn notify(&mut self, queue: usize) {
        self.driver.transport.write(QUEUE_NOTIFY, &(queue as u32).to_le_bytes());
    }

    /// Whether the device works on its queues.
    fn running(&mut self) -> bool {
        let status = self.driver.register(VIRTIO_MMIO_STATUS);
        !self.paused && status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// Changes memory under a device that is at work in it.
    fn write_memory_while_working(&mut self) {
        self.kick_and_go_on();
        for _ in 0..8 {
            self.fill_slot();
        }
    }
}
