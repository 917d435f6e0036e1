//! Requests to the first disk, by io_uring and past the page cache, a given number of them at a time; and reads of a
//! file, as programs do them.
#![allow(unsafe_code, reason = "io_uring is handed buffers as raw addresses")]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use io_uring::{IoUring, opcode, types};
use nix::fcntl::OFlag;

const DISK: &str = "/dev/vda";

/// What to put on the disk.
pub struct Load {
    pub write: bool,
    pub random: bool,
    /// Bytes of a request, a multiple of 4096.
    pub size: u32,
    /// Requests at a time.
    pub depth: u32,
    pub count: u32,
}

/// As O_DIRECT wants a buffer to lie.
#[derive(Clone)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "the kernel alone looks at it")] [u8; 4096]);

/// Does the whole load; an error if a request fails or is cut short.
pub fn run(load: &Load) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(load.write).custom_flags(OFlag::O_DIRECT.bits());
    let mut disk = options.open(DISK)?;
    let blocks = disk.seek(SeekFrom::End(0))? / u64::from(load.size);
    let mut offsets = Offsets { random: load.random, state: 1, blocks, size: load.size };
    let pages = usize::try_from(load.size).map_err(io::Error::other)? / 4096;
    let slots = usize::try_from(load.depth).map_err(io::Error::other)?;
    // Freed only when no request is under way, so not after an error.
    let mut buffers = ManuallyDrop::new(vec![vec![Page([0x5a; 4096]); pages]; slots]);
    let mut ring = IoUring::new(load.depth)?;
    let mut free: Vec<usize> = (0..slots).collect();
    let (mut begun, mut ended) = (0, 0);
    while ended < load.count {
        while begun < load.count
            && let Some(slot) = free.pop()
        {
            let buffer = buffers.get_mut(slot).ok_or(io::ErrorKind::InvalidInput)?;
            push(&mut ring, &disk, load, (slot, buffer), offsets.next())?;
            begun += 1;
        }
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            match u32::try_from(completion.result()) {
                Ok(done) if done == load.size => {}
                Ok(done) => return Err(io::Error::other(format!("{DISK}: {done} of {} bytes", load.size))),
                Err(_) => return Err(io::Error::from_raw_os_error(-completion.result())),
            }
            free.push(usize::try_from(completion.user_data()).map_err(io::Error::other)?);
            ended += 1;
        }
    }
    drop(ManuallyDrop::into_inner(buffers));
    Ok(())
}

/// Reads `size` bytes at `count` random places of a file, one after the other.
pub fn read_file(path: &Path, size: u32, count: u32) -> io::Result<()> {
    let file = File::open(path)?;
    let mut offsets =
        Offsets { random: true, state: 1, blocks: file.metadata()?.len() / u64::from(size), size };
    let mut buffer = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    for _ in 0..count {
        file.read_exact_at(&mut buffer, offsets.next())?;
    }
    Ok(())
}

fn push(
    ring: &mut IoUring,
    disk: &File,
    load: &Load,
    (slot, buffer): (usize, &mut Vec<Page>),
    offset: u64,
) -> io::Result<()> {
    let (disk, at) = (types::Fd(disk.as_raw_fd()), buffer.as_mut_ptr().cast());
    let entry = match load.write {
        true => opcode::Write::new(disk, at, load.size).offset(offset).build(),
        false => opcode::Read::new(disk, at, load.size).offset(offset).build(),
    };
    // SAFETY: the buffer has `size` bytes, is not used for anything else until its slot is free again, and is not
    // freed while a request is under way.
    unsafe { ring.submission().push(&entry.user_data(slot as u64)) }.map_err(io::Error::other)
}

/// Where the requests go: the same places in every run.
struct Offsets {
    random: bool,
    state: u64,
    blocks: u64,
    size: u32,
}

impl Offsets {
    fn next(&mut self) -> u64 {
        self.state = match self.random {
            // The multiplier of Knuth's MMIX; its upper bits are random enough for a disk.
            true => self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1),
            false => self.state + (1 << 32),
        };
        (self.state >> 32) % self.blocks * u64::from(self.size)
    }
}
