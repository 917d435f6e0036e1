//! The disk as its driver sees it: through registers and rings, against files of the host.
//!
//! No test opens a file again that it has closed: a process that another test starts has its lock for a moment,
//! between fork and exec.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rvm_config::{Disk, DiskSource, IoEngine};
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
use super::medium::Medium;
use super::ring::Ring;
use super::tray::Tray;
use super::{Block, BlockError, config};
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, Part, Random};
use crate::devices::virtio::{DeviceStats, VirtioDevice};
use crate::seccomp::{Filters, ThreadKind};

mod flight;
mod host;
mod hostile;
mod parts;
mod requests;

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
        Disk { id: Some("root".into()), ..disk_at(&self.0, engine) }
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

/// A disk that can be written to.
fn disk_at(path: &Path, engine: IoEngine) -> Disk {
    Disk { source: DiskSource::Path(path.into()), read_only: false, id: None, engine }
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

/// A ring.
fn ring() -> std::io::Result<Ring> {
    Ring::new()
}

/// A machine whose disk is `file`, of a size that no request here exceeds.
fn machine_on(file: File, ring: Option<Ring>) -> Machine {
    let file = DiskFile { file: Arc::new(file), block_device: false };
    let block = Block::new(Tray::with(Medium::whole(file, 1 << 30)), ring, IoEngine::IoUring, false);
    let stats = block.stats();
    Machine { driver: Driver::start(Box::new(block), u64::MAX), stats, image: Image::new(512) }
}
