//! File system device (virtio 1.2, section 5.11): a directory of the host, or a single file, shared with the guest, which
//! mounts it by its tag (`mount -t virtiofs TAG /mnt`).
//!
//! ```text
//!  guest's kernel ── FUSE request in a chain ──> message: copied, bounded ──> filesystem ──> system calls ──┐
//!                                                data ── preadv2, pwritev2 ── open file                     │
//!                 <────────────── used ring ───────────────── reply <───────────────────────────────────────┘
//! ```
//!
//! One thread, one request at a time. The guest sees the directory and what is below it, mounts of the host
//! included, and nothing else: [`filesystem`] says what keeps it inside. What it can make this process keep is
//! bounded ([`filesystem::Rules`], [`message`]).
//!
//! The file-system layer is our own; docs/adr has why. Not there: locks between guest and host, device nodes,
//! direct access to the host's page cache (DAX), the notification queue.
//!
//! # System calls of the thread
//!
//! Besides those of every worker (waiting for orders and kicks, memory, log lines, its end):
//!
//! | call | when |
//! |---|---|
//! | unshare (CLONE_FS), fchdir | each activation and resume: a umask and a working directory of its own |
//! | statx, openat, close | relative to a descriptor, never to the working directory |
//! | mkdirat, mknodat, symlinkat, linkat, unlinkat, renameat, renameat2, readlinkat, umask | names |
//! | fchmodat, fchmod, fchownat, utimensat, ftruncate, fstatfs | attributes |
//! | preadv2, pwritev2, lseek, fallocate, copy_file_range, fcntl (F_DUPFD_CLOEXEC) | open files |
//! | fsync, fdatasync, syncfs | making durable |
//! | getdents64 | open directories |
//! | getxattr, setxattr, listxattr, removexattr | extended attributes |

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod attributes;
mod directories;
mod files;
pub mod filesystem;
mod handles;
mod host;
mod lone_file;
pub mod message;
mod names;
mod negotiation;
mod nodes;
pub mod open;
mod session;
#[cfg(test)]
mod tests;
pub mod wire;
mod xattrs;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use rvm_config::{CachePolicy, Share};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use open::FsError;

use self::filesystem::{FileSystem, Rules};
use self::message::Message;
use self::session::Session;
use self::wire::Reply;
use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};
use crate::jail::Within;

/// Descriptors of the queue of requests: a request of 256 pages has some more.
const REQUEST_QUEUE_SIZE: u16 = 512;
/// Of the high-priority queue and the queue of requests.
const QUEUE_SIZES: [u16; 2] = [128, REQUEST_QUEUE_SIZE];
/// Bytes of the tag in the configuration (5.11.4), padded with zeroes; the number of request queues is behind it.
const TAG: usize = 36;

/// A shared directory, or file.
pub struct Fs {
    files: FileSystem,
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
}

impl Fs {
    /// Opens what `share` names, to be served with `descriptors` at most ([`open::descriptors`]).
    pub fn open(share: &Share, descriptors: usize) -> Result<Self, FsError> {
        let root = open::root(share)?;
        let host = |errno: Errno| FsError::Io { path: share.path.clone(), source: errno.into() };
        Self::new(root, share, descriptors).map_err(host)
    }

    /// Shares `root`, a directory or a regular file that is open, as `share` says but for its path.
    pub fn new(root: OwnedFd, share: &Share, descriptors: usize) -> Result<Self, Errno> {
        let most_handles = descriptors / 4;
        let rules = Rules {
            read_only: share.read_only,
            cached: share.cache == CachePolicy::Auto,
            most_nodes: descriptors.saturating_sub(most_handles),
            most_handles,
        };
        let mut config = [0; TAG + 4];
        for (to, from) in config.iter_mut().take(TAG).zip(share.tag.bytes()) {
            *to = from;
        }
        if let Some(queues) = config.last_chunk_mut() {
            *queues = 1_u32.to_le_bytes();
        }
        let config = Arc::new(ConfigSpace::read_only(&config));
        Ok(Self { files: FileSystem::new(root, rules)?, config, stats: Arc::default() })
    }
}

impl VirtioDevice for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        self.files.relocate(within)
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, interrupt, queues, stop, .. } = activation;
        if let Some(missing) = queues.iter().position(|queue| !queue.ready()) {
            return Err(DeviceError::QueueMissing(missing));
        }
        let Self { files, config: _, stats } = self;
        let entered = files.enter_thread().map_err(Into::into);
        entered.map_err(DeviceError::host("give the thread a working directory of its own"))?;
        let (message, reply) = (Message::default(), Reply::default());
        Session { files, stats, queues, memory, interrupt, message, reply }.run(stop)
    }

    fn reset(&mut self) {
        let Self { files, config: _, stats: _ } = self;
        files.reset();
    }
}
