//! The shared directory as the guest works on it: what each request is carried out by. Of a file that is shared alone,
//! [`super::lone_file`] plays the directory.
//!
//! ```text
//!  request ──> handle() ──┬─ session: INIT, DESTROY             nodes: number ──> O_PATH descriptor
//!                         ├─ attributes   (this node)           handles: number ──> open file
//!                         ├─ files        (open ones)
//!                         ├─ directories  (open ones)
//!                         ├─ names        (a name in a node)
//!                         └─ xattrs       (this node)
//! ```
//!
//! # What keeps the guest inside
//!
//! * The host walks no path of the guest: a request names a node that the guest was told of, and at most an entry
//!   in it, a single name that is neither `.` nor `..` ([`super::wire::Fields::name`]).
//! * An entry is looked up by O_PATH and O_NOFOLLOW: a symbolic link is found, not followed. The guest's kernel
//!   follows links, in its own tree.
//! * Only regular files and directories are ever opened, by the descriptor that was looked up (its name in
//!   /proc/self/fd), never by name; a new file is made with O_EXCL. Devices, pipes and sockets are the guest's
//!   kernel's to handle.
//! * The guest can make device nodes of no device but 0:0 (a whiteout of overlayfs, which is none).
//! * What is read-only is refused here, before anything is done.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchdir, getegid, geteuid};

use super::handles::Handles;
use super::host::{Kind, Stat};
use super::message::Request;
use super::nodes::Nodes;
use super::wire::{ROOT, Reply, opcode};
use crate::jail::Within;

/// How long the guest may believe what it was told, in seconds. Short enough for changes made on the host, as a
/// new version of a configuration, long enough for a program that looks at the same files again and again.
const BELIEVED: u64 = 1;

/// What the guest may do with the directory, and what it may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Nothing is changed.
    pub read_only: bool,
    /// The guest keeps names, attributes and contents for a while.
    pub cached: bool,
    /// Most nodes.
    pub most_nodes: usize,
    /// Most open files and directories.
    pub most_handles: usize,
}

/// A shared directory.
pub struct FileSystem {
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    pub(super) rules: Rules,
    /// /proc/self/fd: files are opened again, and named, by their descriptor.
    pub(super) descriptors: OwnedFd,
    /// Whose a file is that this thread makes, if it may give it to others. Its numbers for files are those that
    /// the process began with ([`crate::privileges`]).
    pub(super) giver: Option<(Uid, Gid)>,
    /// The driver has said what it can do.
    pub(super) started: bool,
    /// What is read from the host before it goes into a reply.
    pub(super) scratch: Vec<u8>,
}

/// An entry of a directory, found and held.
pub(super) struct Found {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl FileSystem {
    /// Shares `root`, a directory or a regular file. Fails when /proc cannot be opened.
    pub fn new(root: OwnedFd, rules: Rules) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptors = openat(AT_FDCWD, c"/proc/self/fd", flags, Mode::empty())?;
        Ok(Self {
            nodes: Nodes::new(root, rules.most_nodes)?,
            handles: Handles::new(rules.most_handles),
            rules,
            descriptors,
            giver: geteuid().is_root().then(|| (geteuid(), getegid())),
            started: false,
            scratch: Vec::new(),
        })
    }

    /// Shares what `within` gives for the root instead, before the guest knows of any file.
    pub fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        let root = within(self.nodes.get(ROOT)?.fd.as_fd())?;
        self.descriptors = within(self.descriptors.as_fd())?;
        // As a mount of its own it has another identity.
        self.nodes = Nodes::new(root, self.rules.most_nodes)?;
        Ok(())
    }

    /// Gives this thread a working directory (/proc/self/fd, where attributes are reached by the names of
    /// descriptors) and a file mode creation mask of its own, apart from the process's. To be called on the thread that
    /// then calls [`Self::handle`].
    pub fn enter_thread(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_FS)?;
        fchdir(&self.descriptors)
    }

    /// Forgets everything the guest knows and has open.
    pub fn reset(&mut self) {
        let Self { nodes, handles, rules: _, descriptors: _, giver: _, started, scratch } = self;
        nodes.clear();
        handles.clear();
        *started = false;
        *scratch = Vec::new();
    }

    /// Carries out `request`, whose answer goes into `reply`.
    pub fn handle(&mut self, mut request: Request, reply: &mut Reply) -> Result<(), Errno> {
        let number = request.header.opcode;
        if !self.started && !matches!(number, opcode::INIT | opcode::DESTROY) {
            return Err(Errno::EIO);
        }
        if self.rules.read_only && changes(number) {
            return Err(Errno::EROFS);
        }
        let request = &mut request;
        // These are to no node, whatever they say.
        let to_none = matches!(number, opcode::INIT | opcode::DESTROY | opcode::BATCH_FORGET);
        if !to_none && request.header.node == ROOT && self.is_lone_file()? {
            return self.handle_directory_of_file(request, reply);
        }
        match number {
            opcode::INIT => self.init(request, reply),
            opcode::DESTROY => {
                self.reset();
                Ok(())
            }
            opcode::LOOKUP => self.lookup(request, reply),
            opcode::FORGET => self.forget(request),
            opcode::BATCH_FORGET => self.batch_forget(request),
            opcode::GETATTR => self.getattr(request, reply),
            opcode::SETATTR => self.setattr(request, reply),
            opcode::READLINK => self.readlink(request, reply),
            opcode::STATFS => self.statfs(request, reply),
            opcode::SYMLINK => self.symlink(request, reply),
            opcode::MKNOD => self.mknod(request, reply),
            opcode::MKDIR => self.mkdir(request, reply),
            opcode::LINK => self.link(request, reply),
            opcode::UNLINK => self.unlink(request),
            opcode::RMDIR => self.rmdir(request),
            opcode::RENAME | opcode::RENAME2 => self.rename(request),
            opcode::OPEN => self.open(request, reply),
            opcode::CREATE => self.create(request, reply),
            opcode::TMPFILE => self.tmpfile(request, reply),
            opcode::READ => self.read(request, reply),
            opcode::WRITE => self.write(request, reply),
            opcode::FLUSH => self.flush(request),
            opcode::FSYNC | opcode::FSYNCDIR => self.fsync(request),
            opcode::SYNCFS => self.syncfs(),
            opcode::FALLOCATE => self.fallocate(request),
            opcode::LSEEK => self.lseek(request, reply),
            opcode::COPY_FILE_RANGE => self.copy_file_range(request, reply),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(request),
            opcode::OPENDIR => self.opendir(request, reply),
            opcode::READDIR => self.readdir(request, reply, false),
            opcode::READDIRPLUS => self.readdir(request, reply, true),
            opcode::SETXATTR => self.setxattr(request),
            opcode::GETXATTR => self.getxattr(request, reply),
            opcode::LISTXATTR => self.listxattr(request, reply),
            opcode::REMOVEXATTR => self.removexattr(request),
            // INTERRUPT among them: what is begun here is soon done.
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Finds the entry `name` of the node `parent`.
    pub(super) fn find(&self, parent: u64, name: &CStr) -> Result<Found, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.nodes.get(parent)?.fd, name, flags, Mode::empty())?;
        let stat = Stat::of(&fd)?;
        Ok(Found { fd, stat })
    }

    /// Opens the file behind a node anew, if it is a regular file or a directory.
    pub(super) fn reopen(&self, number: u64, flags: OFlag) -> Result<File, Errno> {
        let node = self.nodes.get(number)?;
        match node.kind {
            Kind::Regular | Kind::Directory => self.reopen_descriptor(&node.fd, flags).map(File::from),
            Kind::Symlink => Err(Errno::ELOOP),
            Kind::Special => Err(Errno::ENXIO),
        }
    }

    /// Opens what `fd` is open on anew; its kind is known to be harmless, or `flags` have O_PATH.
    pub(super) fn reopen_descriptor(&self, fd: &impl AsRawFd, flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        openat(&self.descriptors, name_of(fd).as_str(), flags, Mode::empty())
    }

    /// Tells the guest of the node `number`, as the answer to a lookup.
    pub(super) fn put_entry(&self, reply: &mut Reply, number: u64, stat: &Stat) {
        let believed = self.believed();
        // A number is never used again, so its generation is always the same one.
        reply.u64(number).u64(0).u64(believed).u64(believed).u64(0);
        put_attributes(reply, stat);
    }

    /// For how many seconds the guest may believe names and attributes.
    pub(super) fn believed(&self) -> u64 {
        if self.rules.cached { BELIEVED } else { 0 }
    }
}

/// The name of a descriptor in /proc/self/fd: a link to what it is open on, which leads to exactly that.
pub(super) fn name_of(fd: &impl AsRawFd) -> String {
    fd.as_raw_fd().to_string()
}

/// Whether an operation changes something by itself; opening is looked at more closely.
fn changes(number: u32) -> bool {
    matches!(
        number,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
    )
}

/// Puts what `stat` says into a reply (`struct fuse_attr`).
pub(super) fn put_attributes(reply: &mut Reply, stat: &Stat) {
    let Stat(host) = stat;
    reply.u64(host.stx_ino).u64(host.stx_size).u64(host.stx_blocks);
    let times = [host.stx_atime, host.stx_mtime, host.stx_ctime];
    for time in &times {
        reply.u64(time.tv_sec.cast_unsigned());
    }
    for time in &times {
        reply.u32(time.tv_nsec);
    }
    reply.u32(stat.mode()).u32(host.stx_nlink).u32(host.stx_uid).u32(host.stx_gid);
    // As the kernel encodes device numbers for others (new_encode_dev).
    let (major, minor) = (host.stx_rdev_major & 0xfff, host.stx_rdev_minor);
    reply.u32(minor & 0xff | major << 8 | (minor & !0xff) << 12);
    // No flags: no mount of its own, no direct access.
    reply.u32(host.stx_blksize).u32(0);
}
