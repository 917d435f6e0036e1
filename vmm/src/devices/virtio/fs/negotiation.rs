//! INIT: the version and the features that guest and host agree on.
//!
//! Left out on purpose: locks (POSIX_LOCKS, FLOCK_LOCKS: the guest's kernel keeps them, between its own
//! processes), WRITEBACK_CACHE (the host's kernel has one, and sees every write when it is made), EXPORT_SUPPORT
//! (lookups of `.` and `..`), SUBMOUNTS, DAX, security contexts.

use nix::errno::Errno;

use super::filesystem::FileSystem;
use super::message::Request;
use super::wire::{self, MAJOR, MAX_TRANSFER, MINOR, OLDEST_MINOR, Reply};

/// The guest may read ahead.
const ASYNC_READ: u64 = 1 << 0;
/// O_TRUNC comes with OPEN.
const ATOMIC_O_TRUNC: u64 = 1 << 3;
/// Writes of more than a page.
const BIG_WRITES: u64 = 1 << 5;
/// The mask of the process is applied by the host, which knows of default ACLs.
const DONT_MASK: u64 = 1 << 6;
/// The guest drops what it keeps of a file whose time or size has changed.
const AUTO_INVAL_DATA: u64 = 1 << 12;
/// Entries with their attributes, and only where that has been of use.
const DO_READDIRPLUS: u64 = 1 << 13;
const READDIRPLUS_AUTO: u64 = 1 << 14;
/// Direct I/O that goes on while its process does something else.
const ASYNC_DIO: u64 = 1 << 15;
/// Lookups in one directory beside each other.
const PARALLEL_DIROPS: u64 = 1 << 18;
/// The guest's kernel heeds ACLs, which it reads as extended attributes.
const POSIX_ACL: u64 = 1 << 20;
/// The reply says how many pages a request may have.
const MAX_PAGES: u64 = 1 << 22;
/// What a symbolic link says is kept: it never changes.
const CACHE_SYMLINKS: u64 = 1 << 23;
/// Set-id bits are taken away here, when a request says so.
const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
/// SETXATTR has its longer form.
const SETXATTR_EXT: u64 = 1 << 29;
/// The second half of the flags is there.
const INIT_EXT: u64 = 1 << 30;
/// Files without a cache can be mapped all the same.
const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;

const WANTED: u64 = ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | DONT_MASK
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | POSIX_ACL
    | MAX_PAGES
    | HANDLE_KILLPRIV_V2
    | SETXATTR_EXT
    | INIT_EXT
    | DIRECT_IO_ALLOW_MMAP;

/// Without these, messages are not what they are taken for here. Every Linux that has virtio-fs offers the first;
/// the second came with 5.12.
const NEEDED: u64 = MAX_PAGES | SETXATTR_EXT;

/// Requests that the guest has under way that no process waits for, and of how many it thinks that they are many.
const BACKGROUND: (u16, u16) = (64, 48);

impl FileSystem {
    pub(super) fn init(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (major, minor, read_ahead) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let mut offered = u64::from(fields.u32()?);
        if offered & INIT_EXT != 0 {
            offered |= u64::from(fields.u32()?) << 32;
        }
        if major != MAJOR || minor < OLDEST_MINOR || offered & NEEDED != NEEDED {
            return Err(Errno::EPROTO);
        }
        // A mount after one that never said goodbye starts anew as well.
        self.reset();
        let kept = if self.rules.cached { CACHE_SYMLINKS } else { 0 };
        let without = if self.is_lone_file()? { DO_READDIRPLUS | READDIRPLUS_AUTO } else { 0 };
        let agreed = offered & (WANTED | kept) & !without;
        let [l0, l1, l2, l3, high @ ..] = agreed.to_le_bytes();
        let (background, congested) = BACKGROUND;
        reply
            .u32(MAJOR)
            .u32(MINOR)
            .u32(read_ahead)
            .put(&[l0, l1, l2, l3])
            .u16(background)
            .u16(congested)
            .u32(MAX_TRANSFER);
        // Times in nanoseconds; no alignment of mappings, of which there are none.
        reply.u32(1).u16(wire::MAX_PAGES).u16(0).put(&high).zeroes(28);
        self.started = true;
        Ok(())
    }
}
