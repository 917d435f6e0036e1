//! Block device (virtio 1.2, section 5.2): a raw file or a block device of the host as the guest's disk.
//!
//! ```text
//!  chain ──> request: parsed and checked once ──> file: one system call after the other ──┐
//!                                            └──> ring: io_uring, many at a time ─────────┴──> status, used ring
//! ```
//!
//! Data goes between the host's page cache and guest memory without a copy of its own (no O_DIRECT). What is
//! in flight lives in `ring`, never past a return of [`Block::run`]; what else there is to a disk's state is
//! its file. Images have no format here: a byte of the disk is a byte of the file.
//!
//! # System calls of the thread
//!
//! From the start of its worker to its end, besides those of every worker (futex, the allocator's, write to
//! standard error):
//!
//! | call | when |
//! |---|---|
//! | epoll_create1, epoll_ctl (ADD), close | each activation and resume |
//! | epoll_wait | always |
//! | write (8 bytes) | the interrupt's eventfd |
//! | preadv2 (flags 0, RWF_NOWAIT), pwritev2 (flags 0, RWF_DSYNC) | transfers |
//! | fdatasync | flush, without io_uring |
//! | fallocate (KEEP_SIZE with PUNCH_HOLE or ZERO_RANGE) | discard, write-zeroes |
//! | pwrite64 | write-zeroes where the file system has no fallocate for it |
//! | ioctl (BLKDISCARD) | discard on a block device |
//! | io_uring_enter (flags 0, IORING_ENTER_GETEVENTS) | with io_uring; its operations are in [`ring`] |

pub mod config;
pub mod file;
pub mod open;
pub mod request;
pub mod ring;
pub mod serve;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rvm_config::{Disk, IoEngine};
use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES};

use super::buffers::{Buffers, Segment};
use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};
use file::DiskFile;
pub use open::BlockError;
use request::{Limits, SECTOR};
use ring::Ring;
use serve::Session;

/// A disk.
pub struct Block {
    disk: DiskFile,
    /// Without one, a request is carried out when it is taken.
    ring: Option<Ring>,
    limits: Limits,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
    /// The data of the request at hand.
    segments: Vec<Segment>,
    /// The same, for the host's kernel.
    buffers: Buffers,
    /// RWF_DSYNC for a driver that did not take FLUSH, which expects what is written to be durable (5.2.6.2).
    write_flags: libc::c_int,
    /// A failure of the host was logged: further ones are counted only.
    complained: bool,
}

impl Block {
    /// Opens and locks what `disk` names, and makes its ring.
    pub fn open(disk: &Disk) -> Result<Self, BlockError> {
        let (file, limits) = open::open(&disk.path, disk.read_only)?;
        let ring = match disk.engine {
            IoEngine::Sync => None,
            // Nothing there is worth waiting for beside something else.
            IoEngine::Auto if file.in_memory() => None,
            IoEngine::Auto => Ring::new(&file.file).map_or_else(|error| say_sync(&disk.path, &error), Some),
            IoEngine::IoUring => {
                let engine = |source| BlockError::Engine { path: disk.path.clone(), source };
                Some(Ring::new(&file.file).map_err(engine)?)
            }
        };
        let mut block = Self::new(file, ring, limits);
        for (to, from) in block.id.iter_mut().zip(disk.id.iter().flat_map(|id| id.bytes())) {
            *to = from;
        }
        Ok(block)
    }

    fn new(disk: DiskFile, ring: Option<Ring>, limits: Limits) -> Self {
        Self {
            disk,
            ring,
            id: [0; VIRTIO_BLK_ID_BYTES as usize],
            config: Arc::new(ConfigSpace::read_only(&config::config(limits.capacity / SECTOR))),
            limits,
            stats: Arc::default(),
            segments: Vec::new(),
            buffers: Buffers::default(),
            write_flags: 0,
            complained: false,
        }
    }
}

/// The engine of a host without io_uring.
fn say_sync(path: &Path, error: &io::Error) -> Option<Ring> {
    log::info!("disk '{}': no io_uring here ({error}); requests go one after the other", path.display());
    None
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        config::features(self.limits.read_only)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[config::QUEUE_SIZE]
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, interrupt, queues, stop } = activation;
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else {
            return Err(DeviceError::QueueMissing(0));
        };
        self.write_flags = match *features & config::bit(VIRTIO_BLK_F_FLUSH) {
            0 => libc::RWF_DSYNC,
            _ => 0,
        };
        if let Some(ring) = &mut self.ring {
            ring.attach(memory, self.write_flags);
        }
        Session { block: self, queue, memory, interrupt }.run(stop)
    }
}
