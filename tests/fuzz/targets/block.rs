//! The block device under a hostile driver.

#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rvm::devices::virtio::block::Block;
use rvm::devices::virtio::testing::Part;
use rvm_config::control::Layout;
use rvm_config::{Disk, DiskSource, IoEngine};
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SECTOR: u64 = 512;
const SECTORS: u64 = 64;
/// Request types of virtio 1.2, section 5.2.6.
const OUT: u32 = 1;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// A disk of the fuzzer's own, without a name.
fn image() -> &'static File {
    static IMAGE: OnceLock<File> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let file = File::from(memfd_create("disk", MFdFlags::empty()).expect("a file in memory"));
        file.set_len(SECTORS * SECTOR).expect("memory for the disk");
        file
    })
}

fn image_path() -> PathBuf {
    format!("/proc/self/fd/{}", image().as_raw_fd()).into()
}

/// A request of any type, near the disk's end as often as within it.
fn request(memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    let (header, range, status) = (slot(input.u8()), slot(input.u8()), slot(input.u8()));
    let kind = u32::from(input.u8() % 16);
    memory.write_obj(kind, GuestAddress(header)).expect("slots are in memory");
    memory.write_obj(sector(input), GuestAddress(header + 8)).expect("slots are in memory");
    let mut parts = vec![Part::Readable(header, 16)];
    match kind {
        DISCARD | WRITE_ZEROES => {
            memory.write_obj(sector(input), GuestAddress(range)).expect("slots are in memory");
            memory.write_obj(u32::from(input.u8()), GuestAddress(range + 8)).expect("slots are in memory");
            memory
                .write_obj(u32::from(input.u8() & 1), GuestAddress(range + 12))
                .expect("slots are in memory");
            parts.push(Part::Readable(range, 16));
        }
        _ => {
            for _ in 0..input.u8() % 4 {
                let (address, length) = (input.address(), SECTOR as u32 * u32::from(input.u8() % 4));
                parts.push(match kind {
                    OUT => Part::Readable(address, length),
                    _ => Part::Writable(address, length),
                });
            }
        }
    }
    parts.push(Part::Writable(status, 1));
    parts
}

fn sector(input: &mut Input) -> u64 {
    match input.u8() {
        255 => u64::MAX - u64::from(input.u8()),
        254 => u64::MAX / SECTOR - u64::from(input.u8()),
        near => u64::from(near) % (SECTORS + 2),
    }
}

/// A disk on the image, on two partitions of it, or on nothing yet.
fn disk(choice: u8) -> Disk {
    let source = match choice >> 2 & 3 {
        0 | 1 => DiskSource::Path(image_path()),
        2 => DiskSource::Parts(vec![image_path(), image_path()]),
        _ => DiskSource::Placeholder,
    };
    let engine = if choice & 1 == 0 { IoEngine::Sync } else { IoEngine::IoUring };
    Disk { source, read_only: choice & 2 != 0, id: Some("fuzz".into()), engine }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let disk = disk(*choice);
    let device = Block::open(&disk).expect("the disk can be opened");
    let placeholder = device.placeholder(&disk);
    let mut driver = attack(Box::new(device), input, request);

    assert_eq!(image().metadata().expect("the disk").len(), SECTORS * SECTOR, "the disk has its length");
    if let Some(placeholder) = &placeholder {
        let image = File::options().read(true).write(true).open(image_path()).expect("the image");
        let interrupt = driver.transport.interrupt();
        placeholder.attach(Layout::Whole, vec![image.into()], interrupt).expect("it can be attached");
    }
    driver.initialise(u64::MAX);
    let header = driver.place(&[0; 16]);
    let data = driver.allocate(513);
    assert_eq!(driver.request(0, &[Part::Readable(header, 16), Part::Writable(data, 513)]), 513);
    if let Some(mut placeholder) = placeholder {
        placeholder.detach(driver.transport.interrupt()).expect("it can be detached");
    }
});
