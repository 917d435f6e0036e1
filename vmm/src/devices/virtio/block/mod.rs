//! Block device (virtio 1.2, section 5.2): files or a block device of the host as the guest's disk.
//!
//! ```text
//!  chain ──> request: parsed and checked once ──> medium: one system call after the other ──┐
//!                                            └──> ring: io_uring, many at a time ───────────┴──> status, used ring
//! ```
//!
//! Data goes between the host's page cache and guest memory without a copy of its own (no O_DIRECT). What is
//! in flight lives in `ring`, never past a return of [`Block::run`]; what else there is to a disk's state is
//! its medium ([`medium`]), which a placeholder gets while the machine runs ([`placeholder`], [`tray`]). Images have no format
//! here: a byte of the disk is a byte of a file.
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
pub mod gpt;
pub mod medium;
pub mod open;
pub mod placeholder;
pub mod request;
pub mod ring;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod tray;

use std::io;
use std::sync::Arc;

use rvm_config::{Disk, DiskSource, IoEngine};
use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES};

use super::buffers::Segment;
use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};
use medium::{Medium, Progress};
pub use open::BlockError;
pub use placeholder::{AttachError, Placeholder};
use request::{Limits, SECTOR};
use ring::Ring;
use serve::Session;
use tray::{Seen, Tray};

/// A disk.
pub struct Block {
    tray: Tray,
    /// What the disk's thread has seen in it.
    seen: Seen,
    read_only: bool,
    engine: IoEngine,
    /// Without one, a request is carried out when it is taken.
    ring: Option<Ring>,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
    /// The data of the request at hand.
    segments: Vec<Segment>,
    /// The same, on its way.
    progress: Progress,
    /// RWF_DSYNC for a driver that did not take FLUSH, which expects what is written to be durable (5.2.6.2).
    write_flags: libc::c_int,
    /// A failure of the host was logged: further ones are counted only.
    complained: bool,
}

impl Block {
    /// Opens and locks what `disk` names, and makes its ring.
    pub fn open(disk: &Disk) -> Result<Self, BlockError> {
        let tray = open::open(disk)?.map_or_else(Tray::default, Tray::with);
        let in_memory = tray.medium().is_some_and(|medium| medium.in_memory());
        let ring = match disk.engine {
            IoEngine::Sync => None,
            IoEngine::Auto if in_memory => None,
            IoEngine::Auto => Ring::new().map_or_else(|error| say_sync(disk, &error), Some),
            IoEngine::IoUring => {
                let engine = |source| BlockError::Engine { disk: disk.to_string(), source };
                Some(Ring::new().map_err(engine)?)
            }
        };
        let mut block = Self::new(tray, ring, disk.engine, disk.is_read_only());
        for (to, from) in block.id.iter_mut().zip(disk.id.iter().flat_map(|id| id.bytes())) {
            *to = from;
        }
        Ok(block)
    }

    fn new(tray: Tray, ring: Option<Ring>, engine: IoEngine, read_only: bool) -> Self {
        let sectors = tray.capacity() / SECTOR;
        Self {
            seen: Seen::of(&tray),
            tray,
            read_only,
            engine,
            ring,
            id: [0; VIRTIO_BLK_ID_BYTES as usize],
            config: Arc::new(ConfigSpace::read_only(&config::config(sectors))),
            stats: Arc::default(),
            segments: Vec::new(),
            progress: Progress::default(),
            write_flags: 0,
            complained: false,
        }
    }

    /// What gives this device a medium later, if `disk`, which it was opened for, is a placeholder.
    pub fn placeholder(&self, disk: &Disk) -> Option<Placeholder> {
        let (DiskSource::Placeholder, Some(id)) = (&disk.source, &disk.id) else {
            return None;
        };
        Some(Placeholder::new(id.clone(), self.read_only, self.tray.clone(), self.config.clone()))
    }

    /// What the driver may do on `medium`, which is in the tray now.
    fn limits(&self, medium: Option<&Medium>) -> Limits {
        Limits { capacity: medium.map_or(0, Medium::capacity), read_only: self.read_only }
    }
}

/// Whether requests on `medium` go through the ring, if there is one: in memory nothing is worth waiting for beside
/// something else.
fn in_ring(engine: IoEngine, medium: &Medium) -> bool {
    engine == IoEngine::IoUring || !medium.in_memory()
}

/// The engine of a host without io_uring.
fn say_sync(disk: &Disk, error: &io::Error) -> Option<Ring> {
    log::info!("disk '{disk}': no io_uring here ({error}); requests go one after the other");
    None
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        config::features(self.read_only)
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

    fn reset(&mut self) {
        let Self {
            tray: _,
            seen: _,
            read_only: _,
            engine: _,
            ring: _,
            id: _,
            config: _,
            stats: _,
            segments,
            progress,
            write_flags,
            complained: _,
        } = self;
        segments.clear();
        progress.clear();
        *write_flags = 0;
    }
}
