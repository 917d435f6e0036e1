//! The disk as its driver sees it: through registers and rings, against files of the host.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rvm_config::{Disk, IoEngine};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::file::DiskFile;
use super::request::Limits;
use super::ring::Ring;
use super::{Block, BlockError};
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, Part, Random};
use crate::devices::virtio::{DeviceStats, VirtioDevice};
use crate::seccomp::{Filters, ThreadKind};

/// Bytes of the disk that most tests use.
const SIZE: u64 = 1 << 20;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A file of its own, gone with the test.
struct Image(PathBuf);

impl Image {
    /// `size` bytes, each the low byte of its sector's number.
    fn new(size: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rvm-block-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let bytes: Vec<u8> = (0..size).map(|at| (at / 512).to_le_bytes()[0]).collect();
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn disk(&self, engine: IoEngine) -> Disk {
        Disk { path: self.0.clone(), read_only: false, id: Some("root".into()), engine }
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.0).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A test may have put something else in its place.
        fs::remove_file(&self.0).ok();
    }
}

/// A driver of a disk on an image.
struct Machine {
    driver: Driver,
    stats: Arc<DeviceStats>,
    image: Image,
}

impl Machine {
    fn new(engine: IoEngine) -> Self {
        let image = Image::new(SIZE);
        Self::with(&image.disk(engine), image)
    }

    fn read_only(engine: IoEngine) -> Self {
        let image = Image::new(SIZE);
        Self::with(&Disk { read_only: true, ..image.disk(engine) }, image)
    }

    fn with(disk: &Disk, image: Image) -> Self {
        let block = Block::open(disk).unwrap();
        let stats = block.stats();
        Self { driver: Driver::start(Box::new(block), u64::MAX), stats, image }
    }

    /// The header of a request, in guest memory.
    fn header(&mut self, kind: u32, sector: u64) -> Part {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        Part::Readable(self.driver.place(&header), 16)
    }

    /// Carries out a request on `data`; gives its status and the used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
        let status = self.driver.place(&[0xff]);
        let mut parts = vec![self.header(kind, sector)];
        parts.extend(data);
        parts.push(Part::Writable(status, 1));
        let written = self.driver.request(0, &parts);
        (self.driver.bytes(status, 1)[0], written)
    }

    fn read(&mut self, sector: u64, length: u32) -> (u8, Vec<u8>) {
        let data = self.driver.allocate(length as usize);
        let (status, written) = self.request(VIRTIO_BLK_T_IN, sector, &[Part::Writable(data, length)]);
        assert_eq!(written, if status == OK { length + 1 } else { 0 });
        (status, self.driver.bytes(data, length as usize))
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let data = self.driver.place(bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.request(VIRTIO_BLK_T_OUT, sector, &[Part::Readable(data, length)]).0
    }

    /// A discard or a write-zeroes of `sectors` from `sector` on.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        let data = self.driver.place(&range);
        self.request(kind, 0, &[Part::Readable(data, 16)]).0
    }

    fn offers(&mut self, feature: u32) -> bool {
        self.driver.set_register(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        self.driver.register(VIRTIO_MMIO_DEVICE_FEATURES) & 1 << feature != 0
    }
}

/// `parts` as a table of descriptors.
fn table(driver: &mut Driver, parts: &[Part]) -> Part {
    let mut table = Vec::new();
    for (next, part) in (1_u16..).zip(parts) {
        let (address, length, flags) = match *part {
            Part::Readable(address, length) => (address, length, 0_u16),
            Part::Writable(address, length) => (address, length, 2),
            Part::Indirect(address, length) => (address, length, 4),
        };
        let more = u16::from(usize::from(next) < parts.len());
        table.extend(address.to_le_bytes());
        table.extend(length.to_le_bytes());
        table.extend((flags | more).to_le_bytes());
        table.extend(next.to_le_bytes());
    }
    let length = u32::try_from(table.len()).unwrap();
    Part::Indirect(driver.place(&table), length)
}

/// Runs `test` on every engine. Where the host has no io_uring, the runner of the tests is told.
fn on_every_engine(test: impl Fn(IoEngine)) {
    test(IoEngine::Sync);
    match ring() {
        Ok(_) => test(IoEngine::IoUring),
        Err(error) => println!("\nrvm-tests: cannot run: this host has no io_uring: {error}"),
    }
}

/// A ring, on a file that does not matter.
fn ring() -> std::io::Result<Ring> {
    Ring::new(&File::open("/dev/null").unwrap())
}

#[test]
fn what_is_read_is_in_the_file_and_what_is_written_goes_there() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert_eq!(machine.read(3, 1024), (OK, machine.image.read(3 * 512, 1024)));
        assert_eq!(machine.write(5, &[0xab; 4096]), OK);
        assert_eq!(machine.image.read(5 * 512, 4096), [0xab; 4096]);
        assert_eq!(machine.image.read(4 * 512, 512), [4; 512], "the sector before");
        assert_eq!(machine.image.read(13 * 512, 512), [13; 512], "the sector behind");
        let stats = &machine.stats;
        assert_eq!((stats.operations.get(), stats.errors.get()), (2, 0));
        assert_eq!((stats.bytes_in.get(), stats.bytes_out.get()), (1024, 4096));
    });
}

#[test]
fn the_last_sector_is_there_and_the_next_one_is_not() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let sectors = SIZE / 512;
        assert_eq!(machine.read(sectors - 1, 512).0, OK);
        for (sector, length) in [
            (sectors, 512),
            (sectors - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (1 << 55, 512),
            ((1 << 55) - 1, 512),
        ] {
            assert_eq!(machine.read(sector, length).0, IO_ERROR, "reading {length} at {sector:#x}");
            assert_eq!(machine.write(sector, &vec![1; length as usize]), IO_ERROR, "writing at {sector:#x}");
        }
        assert_eq!(fs::metadata(&machine.image.0).unwrap().len(), SIZE);
        assert_eq!(machine.stats.errors.get(), 12);
    });
}

#[test]
fn lengths_that_are_no_sectors_are_refused_and_nothing_is_nothing() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert_eq!(machine.read(0, 511).0, IO_ERROR);
        assert_eq!(machine.write(0, &[1; 513]), IO_ERROR);
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[]), (OK, 1));
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, &[]), (OK, 1));
        assert_eq!(machine.image.read(0, 512), [0; 512]);
    });
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let Part::Readable(header, _) = machine.header(VIRTIO_BLK_T_OUT, 7) else { unreachable!() };
        let data = machine.driver.place(&[0xcd; 512]);
        let status = machine.driver.place(&[0xff]);
        let parts = [
            Part::Readable(header, 5),
            Part::Readable(header + 5, 11),
            Part::Readable(data, 1),
            Part::Readable(data, 0),
            Part::Readable(data, 511),
            Part::Writable(status, 1),
        ];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.driver.bytes(status, 1), [OK]);
        assert_eq!(machine.image.read(7 * 512, 512), [0xcd; 512]);

        // Header and data in one readable descriptor, data and status in one writable one.
        let buffer = machine.driver.allocate(513);
        let header = machine.header(VIRTIO_BLK_T_IN, 9);
        assert_eq!(machine.driver.request(0, &[header, Part::Writable(buffer, 513)]), 513);
        assert_eq!(machine.driver.bytes(buffer, 513), [vec![9; 512], vec![OK]].concat());
        let mut together = VIRTIO_BLK_T_OUT.to_le_bytes().to_vec();
        together.extend([0; 12]);
        together.extend([0xef; 512]);
        let together = machine.driver.place(&together);
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(together, 528), Part::Writable(status, 1)];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.image.read(0, 512), [0xef; 512]);
    });
}

#[test]
fn a_chain_may_be_in_a_table_of_its_own() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let header = machine.header(VIRTIO_BLK_T_IN, 2);
        let (data, status) = (machine.driver.allocate(1024), machine.driver.place(&[0xff]));
        // As many data segments as the device says it takes.
        let mut parts = vec![header];
        parts.extend((0..253).map(|index| Part::Writable(data + index, 1)));
        parts.extend([Part::Writable(data + 253, 1024 - 253), Part::Writable(status, 1)]);
        let table = table(&mut machine.driver, &parts);
        assert_eq!(machine.driver.request(0, &[table]), 1025);
        assert_eq!(machine.driver.bytes(status, 1), [OK]);
        assert_eq!(machine.driver.bytes(data, 1024), machine.image.read(1024, 1024));
    });
}

#[test]
fn data_outside_of_memory_is_an_error_of_that_request_only() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for address in [MEMORY_SIZE as u64, MEMORY_SIZE as u64 - 511, u64::MAX - 511, u64::MAX] {
            let read = machine.request(VIRTIO_BLK_T_IN, 0, &[Part::Writable(address, 512)]);
            assert_eq!(read, (IO_ERROR, 0), "reading to {address:#x}");
            let write = machine.request(VIRTIO_BLK_T_OUT, 0, &[Part::Readable(address, 512)]);
            assert_eq!(write, (IO_ERROR, 1), "writing from {address:#x}");
        }
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(u64::MAX - 3, 16), Part::Writable(status, 1)];
        machine.driver.request(0, &parts);
        assert_eq!(machine.driver.bytes(status, 1), [IO_ERROR], "a header outside of memory");
        assert_eq!(machine.image.read(0, 512), [0; 512]);
        assert_eq!(machine.read(1, 512), (OK, vec![1; 512]));
    });
}

#[test]
fn requests_that_are_none_are_refused() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let data = machine.driver.allocate(512);
        let (to, from) = (Part::Readable(data, 512), Part::Writable(data, 512));
        assert_eq!(machine.request(99, 0, &[]), (UNSUPPORTED, 1), "an unknown type");
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[to]), (IO_ERROR, 1), "reading into readable memory");
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, &[from]), (IO_ERROR, 0), "writing what is writable");
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[to, from]), (IO_ERROR, 0), "both");
        assert_eq!(machine.request(VIRTIO_BLK_T_DISCARD, 0, &[to]), (IO_ERROR, 1), "32 ranges");
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(data, 15), Part::Writable(status, 1)];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.driver.bytes(status, 1), [IO_ERROR], "a header that is too short");
    });
}

#[test]
fn a_chain_that_cannot_be_answered_asks_for_a_reset() {
    type Fields = (u64, u32, u16, u16);
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let chains: [(&str, &[Fields]); 8] = [
        ("no status", &[(0x10_0000, 16, 0, 0)]),
        ("a status of no length", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 0, WRITE, 0)]),
        ("a status outside of memory", &[(0x10_0000, 16, NEXT, 1), (MEMORY_SIZE as u64, 1, WRITE, 0)]),
        ("a status beyond every address", &[(0x10_0000, 16, NEXT, 1), (u64::MAX - 1, 4, WRITE, 0)]),
        ("a loop", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 1, WRITE | NEXT, 1)]),
        ("a descriptor that is not there", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 1, WRITE | NEXT, 300)]),
        ("readable after writable", &[(0x10_0000, 1, WRITE | NEXT, 1), (0x10_0100, 16, 0, 0)]),
        ("a table outside of memory", &[(MEMORY_SIZE as u64, 32, INDIRECT, 0)]),
    ];
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for (what, chain) in chains {
            for (index, fields) in (0..).zip(chain) {
                machine.driver.set_descriptor(0, index, *fields);
            }
            machine.driver.repost(0, 0);
            machine.driver.kick(0);
            machine.driver.wait_needs_reset();
            assert_eq!(machine.driver.used(0), None, "{what}");
            machine.driver.initialise(u64::MAX);
            assert_eq!(machine.read(1, 512), (OK, vec![1; 512]), "after a reset from {what}");
        }
        assert_eq!(machine.image.read(0, 512), [0; 512]);
    });
}

#[test]
fn a_head_beyond_the_queue_asks_for_a_reset() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        machine.driver.repost(0, u16::MAX);
        machine.driver.kick(0);
        machine.driver.wait_needs_reset();
    });
}

#[test]
fn a_chain_longer_than_the_device_takes_asks_for_a_reset() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let buffer = machine.driver.allocate(16);
        let table = table(&mut machine.driver, &[Part::Writable(buffer, 2); 4096]);
        machine.driver.submit(0, &[table]);
        machine.driver.kick(0);
        machine.driver.wait_needs_reset();
    });
}

#[test]
fn a_read_only_disk_is_never_written_to() {
    on_every_engine(|engine| {
        let mut machine = Machine::read_only(engine);
        assert!(machine.offers(VIRTIO_BLK_F_RO));
        assert!(!machine.offers(VIRTIO_BLK_F_DISCARD));
        assert_eq!(machine.write(0, &[1; 512]), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 1, 8, 0), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 8, 0), IO_ERROR);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(machine.read(1, 512), (OK, vec![1; 512]));
        assert_eq!(machine.image.read(512, 8 * 512), Image::new(SIZE).read(512, 8 * 512));
    });
}

#[test]
fn a_flush_is_done() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert!(machine.offers(VIRTIO_BLK_F_FLUSH));
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    });
}

#[test]
fn without_flush_a_write_is_durable_and_still_a_write() {
    on_every_engine(|engine| {
        let image = Image::new(SIZE);
        let block = Box::new(Block::open(&image.disk(engine)).unwrap());
        let stats = block.stats();
        let driver = Driver::start(block, !(1 << VIRTIO_BLK_F_FLUSH));
        let mut machine = Machine { driver, stats, image };
        assert_eq!(machine.write(2, &[7; 1024]), OK);
        assert_eq!(machine.image.read(1024, 1024), [7; 1024]);
    });
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let stored = |machine: &Machine| fs::metadata(&machine.image.0).unwrap().blocks();
        let before = stored(&machine);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 256, 128, 0), OK);
        assert_eq!(machine.image.read(256 * 512, 128 * 512), [0; 128 * 512]);
        assert!(stored(&machine) < before, "the host has the blocks back");
        for (unmap, sector) in [(0, 1024), (1, 1280)] {
            assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, sector, 3, unmap), OK);
            assert_eq!(machine.image.read(sector * 512, 3 * 512), [0; 3 * 512]);
            assert_eq!(machine.image.read((sector + 3) * 512, 1)[0], 3, "the sector behind");
        }
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 0, 0), OK);
        assert_eq!(fs::metadata(&machine.image.0).unwrap().len(), SIZE);
    });
}

#[test]
fn ranges_and_flags_out_of_bounds_are_refused() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(machine.range(kind, 2047, 2, 0), IO_ERROR);
            assert_eq!(machine.range(kind, u64::MAX, u32::MAX, 0), IO_ERROR);
            assert_eq!(machine.range(kind, u64::MAX / 512, 1, 0), IO_ERROR);
            assert_eq!(machine.range(kind, 0, 1, 2), UNSUPPORTED);
        }
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), UNSUPPORTED);
        assert_eq!(machine.image.read(512, 512), [1; 512]);
    });
}

#[test]
fn the_serial_number_is_the_id_and_fills_what_room_there_is() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let buffer = machine.driver.place(&[0xff; 24]);
        let parts = [Part::Writable(buffer, 3), Part::Writable(buffer + 3, 17)];
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &parts), (OK, 21));
        assert_eq!(machine.driver.bytes(buffer, 21), [b"root".as_slice(), &[0; 16], &[0xff]].concat());
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(buffer, 2)]), (OK, 3));
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(buffer, 24)]), (OK, 20));
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(u64::MAX, 20)]).0, IO_ERROR);
    });
}

#[test]
fn a_file_cut_off_under_the_disk_is_an_error_of_the_read() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        File::options().write(true).open(&machine.image.0).unwrap().set_len(1024 + 100).unwrap();
        assert_eq!(machine.read(0, 1024).0, OK);
        assert_eq!(machine.read(1, 1024).0, IO_ERROR);
        assert_eq!(machine.read(100, 512).0, IO_ERROR);
    });
}

#[test]
fn the_configuration_tells_the_capacity_and_cannot_be_written() {
    let mut machine = Machine::new(IoEngine::Sync);
    machine.driver.set_register(VIRTIO_MMIO_CONFIG, 0);
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG), u32::try_from(SIZE / 512).unwrap());
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG + 12), 254);
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG + 20), 512);
}

#[test]
fn a_batch_is_one_interrupt() {
    // With io_uring it is as many as there are moments at which something completes.
    let mut machine = Machine::new(IoEngine::Sync);
    let (data, status) = (machine.driver.allocate(512), machine.driver.allocate(16));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    machine.driver.transport.pause();
    let before = machine.stats.interrupts.get();
    for _ in 0..16 {
        let parts = [header, Part::Writable(data, 512), Part::Writable(status, 1)];
        machine.driver.submit(0, &parts);
    }
    machine.driver.kick(0);
    machine.driver.transport.resume();
    for _ in 0..16 {
        machine.driver.wait_used(0);
    }
    machine.driver.transport.pause();
    assert_eq!(machine.stats.interrupts.get(), before + 1);
}

#[test]
fn every_request_of_a_full_queue_is_answered_with_and_without_event_idx() {
    on_every_engine(|engine| {
        for features in [u64::MAX, !(1 << VIRTIO_RING_F_EVENT_IDX)] {
            let mut machine = Machine::new(engine);
            machine.driver.initialise(features);
            let header = machine.header(VIRTIO_BLK_T_IN, 5);
            let status = machine.driver.allocate(64);
            for round in 0..40 {
                let mut heads = Vec::new();
                for index in 0..21 {
                    let parts = [header, Part::Writable(0x80_0000 + 512 * index, 512)];
                    let parts = [parts[0], parts[1], Part::Writable(status + index, 1)];
                    heads.push(machine.driver.submit(0, &parts));
                    if index % 7 == 0 {
                        machine.driver.kick(0);
                    }
                }
                machine.driver.kick(0);
                let mut done: Vec<u16> = heads.iter().map(|_| machine.driver.wait_used(0).0).collect();
                done.sort_unstable();
                heads.sort_unstable();
                assert_eq!(done, heads, "round {round}");
                assert_eq!(machine.driver.bytes(status, 21), [OK; 21]);
            }
            assert_eq!(machine.driver.bytes(0x80_0000, 21 * 512), [5; 21 * 512]);
        }
    });
}

#[test]
fn a_paused_disk_goes_on_with_what_was_asked_meanwhile() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        machine.driver.transport.pause();
        let header = machine.header(VIRTIO_BLK_T_IN, 6);
        let (data, status) = (machine.driver.allocate(512), machine.driver.place(&[0xff]));
        machine.driver.submit(0, &[header, Part::Writable(data, 512), Part::Writable(status, 1)]);
        // No kick: a resumed device looks by itself.
        assert_eq!(machine.driver.used(0), None);
        machine.driver.transport.resume();
        assert_eq!(machine.driver.wait_used(0).1, 513);
        assert_eq!(machine.driver.bytes(data, 512), [6; 512]);
    });
}

#[test]
fn a_reset_under_load_leaves_nothing_in_flight() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let header = machine.header(VIRTIO_BLK_T_IN, 8);
        let status = machine.driver.allocate(1);
        for _ in 0..50 {
            for index in 0..21 {
                let data = Part::Writable(0x80_0000 + 0x2_0000 * index, 0x2_0000);
                machine.driver.submit(0, &[header, data, Part::Writable(status, 1)]);
            }
            machine.driver.kick(0);
            machine.driver.initialise(u64::MAX);
            // Nobody writes here any more: what the driver puts there stays.
            let memory = &machine.driver.memory;
            memory.write_slice(&[0x5a; 21 * 0x2_0000], GuestAddress(0x80_0000)).unwrap();
            let bytes = machine.driver.bytes(0x80_0000, 21 * 0x2_0000);
            assert!(bytes.iter().all(|byte| *byte == 0x5a));
        }
        assert_eq!(machine.read(9, 512), (OK, vec![9; 512]));
    });
}

/// A machine whose disk is `file`, of a size that no request here exceeds.
fn machine_on(file: File, ring: Option<Ring>) -> Machine {
    let disk = DiskFile { file, block_device: false };
    let block = Block::new(disk, ring, Limits { capacity: 1 << 30, read_only: false });
    let stats = block.stats();
    Machine { driver: Driver::start(Box::new(block), u64::MAX), stats, image: Image::new(512) }
}

#[test]
fn a_full_host_is_an_error_of_the_write() {
    for with_ring in [false, true] {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let ring = match with_ring.then(|| Ring::new(&full)).transpose() {
            Ok(ring) => ring,
            Err(error) => return println!("\nrvm-tests: cannot run: this host has no io_uring: {error}"),
        };
        let mut machine = machine_on(full, ring);
        assert_eq!(machine.write(1, &[1; 512]), IO_ERROR);
        assert_eq!(machine.read(1, 512), (OK, vec![0; 512]));
        // Several at once.
        let header = machine.header(VIRTIO_BLK_T_OUT, 1);
        let (data, status) = (machine.driver.allocate(512), machine.driver.allocate(16));
        for index in 0..16 {
            let parts = [header, Part::Readable(data, 512), Part::Writable(status + index, 1)];
            machine.driver.submit(0, &parts);
        }
        machine.driver.kick(0);
        for _ in 0..16 {
            assert_eq!(machine.driver.wait_used(0).1, 1);
        }
        assert_eq!(machine.driver.bytes(status, 16), [IO_ERROR; 16]);
        assert_eq!((machine.stats.operations.get(), machine.stats.errors.get()), (18, 17));
    }
}

/// A machine whose reads stay in flight until something is written to the pipe beside it.
fn machine_on_a_pipe() -> Option<(Machine, File)> {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = File::from(OwnedFd::from(reader));
    match Ring::new(&file) {
        Ok(ring) => Some((machine_on(file, Some(ring)), File::from(OwnedFd::from(writer)))),
        Err(error) => {
            println!("\nrvm-tests: cannot run: this host has no io_uring: {error}");
            None
        }
    }
}

#[test]
fn what_the_host_does_in_part_is_asked_for_again() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(1024), machine.driver.place(&[0xff]));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let parts =
        [header, Part::Writable(data, 300), Part::Writable(data + 300, 724), Part::Writable(status, 1)];
    machine.driver.submit(0, &parts);
    machine.driver.kick(0);
    let bytes: Vec<u8> = (0..1024_u16).map(|at| at.to_le_bytes()[0]).collect();
    for piece in bytes.chunks(100) {
        pipe.write_all(piece).unwrap();
    }
    assert_eq!(machine.driver.wait_used(0).1, 1025);
    assert_eq!(machine.driver.bytes(status, 1), [OK]);
    assert_eq!(machine.driver.bytes(data, 1024), bytes);
}

#[test]
fn a_head_that_is_in_flight_cannot_be_so_twice() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(512), machine.driver.place(&[0xff]));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    machine.driver.transport.pause();
    let head = machine.driver.submit(0, &[header, Part::Writable(data, 512), Part::Writable(status, 1)]);
    machine.driver.repost(0, head);
    // The one that is in flight comes to its end before the device gives up.
    pipe.write_all(&[7; 1024]).unwrap();
    machine.driver.transport.resume();
    machine.driver.wait_needs_reset();
    assert_eq!(machine.driver.used(0), Some((head, 513)));
    assert_eq!(machine.driver.used(0), None);
    assert_eq!(machine.driver.bytes(data, 512), [7; 512]);

    machine.driver.initialise(u64::MAX);
    assert_eq!(machine.read(0, 512), (OK, vec![7; 512]), "after a reset");
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    // With tables of their own, more in flight than the queue has descriptors for otherwise.
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let data = machine.driver.allocate(63 * 512);
    let status = machine.driver.allocate(63);
    for index in 0..63 {
        let parts = [header, Part::Writable(data + 512 * index, 512), Part::Writable(status + index, 1)];
        let table = table(&mut machine.driver, &parts);
        machine.driver.submit(0, &[table]);
    }
    machine.driver.kick(0);
    // The first answer tells that all are in flight: they were taken as one batch.
    pipe.write_all(&[1; 512]).unwrap();
    machine.driver.wait_used(0);
    let feeder = std::thread::spawn(move || pipe.write_all(&[1; 62 * 512]));
    machine.driver.initialise(u64::MAX);
    feeder.join().unwrap().unwrap();
    assert_eq!(machine.driver.bytes(data, 63 * 512), vec![1; 63 * 512], "the reset came after all of it");
    assert_eq!(machine.stats.operations.get(), 63);
}

#[test]
fn a_pause_finishes_what_is_in_flight_and_keeps_the_rest() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(1024), machine.driver.allocate(2));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    for index in 0..2 {
        let parts = [header, Part::Writable(data + 512 * index, 512), Part::Writable(status + index, 1)];
        machine.driver.submit(0, &parts);
    }
    machine.driver.kick(0);
    pipe.write_all(&[1; 512]).unwrap();
    machine.driver.wait_used(0);
    let feeder = std::thread::spawn(move || pipe.write_all(&[2; 512]).map(|()| pipe));
    machine.driver.transport.pause();
    assert!(machine.driver.used(0).is_some(), "answered before the pause was over");
    let mut pipe = feeder.join().unwrap().unwrap();
    machine.driver.transport.resume();
    pipe.write_all(&[3; 512]).unwrap();
    assert_eq!(machine.read(0, 512), (OK, vec![3; 512]));
}

#[test]
fn any_batches_of_requests_do_what_a_disk_does() {
    on_every_engine(|engine| {
        let mut random = Random::new(1);
        let mut machine = Machine::new(engine);
        let mut model = machine.image.read(0, usize::try_from(SIZE).unwrap());
        let start = machine.driver.allocate(16);
        for _ in 0..300 {
            machine.driver.rewind(start);
            let mut expected = Vec::new();
            // Up to 12 requests on as many stretches of the disk: what is in flight has no order.
            let count = 1 + random.below(12);
            for stretch in 0..count {
                let sector = stretch * 170 + random.below(100);
                let sectors = 1 + random.below(60);
                let bytes = usize::try_from(sector * 512).unwrap()
                    ..usize::try_from((sector + sectors) * 512).unwrap();
                let length = u32::try_from(bytes.len()).unwrap();
                let data = machine.driver.allocate(bytes.len());
                let cut = u32::try_from(random.below(length.into())).unwrap();
                let status = machine.driver.place(&[0xff]);
                let (kind, content) = match random.below(3) {
                    0 => (VIRTIO_BLK_T_FLUSH, None),
                    1 => (VIRTIO_BLK_T_IN, Some(model[bytes.clone()].to_vec())),
                    _ => {
                        let content: Vec<u8> =
                            bytes.clone().map(|_| random.below(256).to_le_bytes()[0]).collect();
                        machine.driver.memory.write_slice(&content, GuestAddress(data)).unwrap();
                        model[bytes].copy_from_slice(&content);
                        (VIRTIO_BLK_T_OUT, None)
                    }
                };
                let part = match kind {
                    VIRTIO_BLK_T_IN => Part::Writable,
                    _ => Part::Readable,
                };
                let parts = [
                    machine.header(kind, sector),
                    part(data, cut),
                    part(data + u64::from(cut), length - cut),
                    Part::Writable(status, 1),
                ];
                machine.driver.submit(0, &parts);
                expected.push((status, data, content));
            }
            machine.driver.kick(0);
            for _ in 0..count {
                machine.driver.wait_used(0);
            }
            for (status, data, content) in expected {
                assert_eq!(machine.driver.bytes(status, 1), [OK]);
                let content = content.unwrap_or_default();
                assert!(
                    machine.driver.bytes(data, content.len()) == content,
                    "what was read is what was there"
                );
            }
        }
        assert!(machine.image.read(0, model.len()) == model, "the file is what was written");
        assert_eq!(machine.stats.errors.get(), 0);
    });
}

/// A block device of the host on an image.
struct Loop {
    device: PathBuf,
    _image: Image,
}

impl Loop {
    /// `None`, told to the runner, where the host lets nobody have one.
    fn new(arguments: &[&str]) -> Option<Self> {
        let image = Image::new(SIZE);
        let output =
            Command::new("losetup").args(arguments).args(["--find", "--show"]).arg(&image.0).output();
        match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Self { device, _image: image })
            }
            failed => {
                println!("\nrvm-tests: cannot run: there is no loop device to be had: {failed:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.device).status().unwrap();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let Some(device) = Loop::new(&[]) else { return };
    on_every_engine(|engine| {
        let disk = Disk { path: device.device.clone(), read_only: false, id: None, engine };
        let mut machine = Machine::with(&disk, Image::new(512));
        assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG), u32::try_from(SIZE / 512).unwrap());
        assert_eq!(machine.write(8, &[0xaa; 8 * 512]), OK);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(machine.read(15, 512), (OK, vec![0xaa; 512]));
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 1024, 128, 0), OK);
        for (sector, unmap) in [(8, 0), (12, 1)] {
            assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, sector, 4, unmap), OK);
            assert_eq!(machine.read(sector, 4 * 512), (OK, vec![0; 4 * 512]));
        }
    });
}

#[test]
fn a_write_protected_block_device_is_not_opened_for_writing() {
    let Some(device) = Loop::new(&["--read-only"]) else { return };
    let disk = Disk { path: device.device.clone(), read_only: false, id: None, engine: IoEngine::Sync };
    let error = Block::open(&disk).err().unwrap();
    assert!(matches!(error, BlockError::ReadOnly { .. } | BlockError::Permission { .. }), "{error}");
    Block::open(&Disk { read_only: true, ..disk }).unwrap();
}

#[test]
fn a_disk_is_free_again_as_soon_as_its_device_is_gone() {
    on_every_engine(|engine| {
        let image = Image::new(SIZE);
        for _ in 0..50 {
            // Fails where the kernel still holds the file, as for a ring that it takes apart later.
            let block = Block::open(&image.disk(engine)).unwrap();
            let mut driver = Driver::start(Box::new(block), u64::MAX);
            let header = driver.place(&[0; 16]);
            let data = driver.allocate(513);
            for _ in 0..2 {
                driver.submit(0, &[Part::Readable(header, 16), Part::Writable(data, 513)]);
            }
            driver.kick(0);
            driver.wait_used(0);
        }
    });
}

/// Everything that a disk does, by a thread under its seccomp filter: one that asks for more ends the tests.
fn do_everything_confined(disk: &Disk) {
    let block = Block::open(disk).unwrap();
    let stats = block.stats();
    let confine = Filters::new(true).unwrap().confine(ThreadKind::Block);
    let memory = [(GuestAddress(0), MEMORY_SIZE)];
    let mut driver = Driver::confined(Box::new(block), &memory, confine);
    // Without FLUSH first: durable writes.
    driver.initialise(!(1 << VIRTIO_BLK_F_FLUSH));
    let mut machine = Machine { driver, stats, image: Image::new(512) };
    assert_eq!(machine.write(0, &[1; 512]), OK);
    machine.driver.initialise(u64::MAX);
    assert_eq!(machine.write(0, &[1; 512]), OK);
    assert_eq!(machine.read(0, 512), (OK, vec![1; 512]));
    assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 8, 8, 0), OK);
    assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), OK);
    assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 8, 1), OK);
    // A batch, with the most segments there are.
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let (data, status) = (machine.driver.allocate(254 * 512), machine.driver.allocate(8));
    let segments = (0..254).map(|index| Part::Writable(data + 512 * index, 512));
    for index in 0..8 {
        let end = Part::Writable(status + index, 1);
        let parts: Vec<Part> = [header].into_iter().chain(segments.clone()).chain([end]).collect();
        let table = table(&mut machine.driver, &parts);
        machine.driver.submit(0, &[table]);
    }
    machine.driver.kick(0);
    for _ in 0..8 {
        machine.driver.wait_used(0);
    }
    assert_eq!(machine.driver.bytes(status, 8), [OK; 8]);
    assert_eq!(machine.read(SIZE, 512).0, IO_ERROR);
    machine.driver.transport.pause();
    machine.driver.transport.resume();
    assert_eq!(machine.read(0, 512), (OK, vec![1; 512]));
}

#[test]
fn a_disk_needs_no_call_that_its_filter_forbids() {
    on_every_engine(|engine| do_everything_confined(&Image::new(SIZE).disk(engine)));
}

#[test]
fn a_block_device_needs_no_call_that_its_filter_forbids() {
    let Some(device) = Loop::new(&[]) else { return };
    on_every_engine(|engine| {
        do_everything_confined(&Disk { path: device.device.clone(), read_only: false, id: None, engine });
    });
}
