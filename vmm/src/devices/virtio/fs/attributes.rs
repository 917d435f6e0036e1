//! What the guest asks about a node: finding and forgetting it, its attributes, where a link leads, its file
//! system.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, ftruncate};

use super::filesystem::{FileSystem, name_of, put_attributes};
use super::host::{Kind, Stat};
use super::message::Request;
use super::wire::{Fields, Reply};

/// What SETATTR is to set (`FATTR_*`).
mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// The bits of a mode that chmod(2) sets.
pub const PERMISSIONS: u32 = 0o7777;

/// The arguments of SETATTR.
struct Change {
    valid: u32,
    handle: u64,
    size: u64,
    access: TimeSpec,
    modification: TimeSpec,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl FileSystem {
    pub(super) fn lookup(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let name = request.fields.name()?;
        // Mostly one that is known already: then that is all.
        let stat = Stat::at(&self.nodes.get(request.header.node)?.fd, name)?;
        if let Some(known) = self.nodes.again(&stat) {
            self.put_entry(reply, known, &stat);
            return Ok(());
        }
        let found = self.find(request.header.node, name)?;
        let number = self.nodes.add(found.fd, &found.stat)?;
        self.put_entry(reply, number, &found.stat);
        Ok(())
    }

    pub(super) fn forget(&mut self, request: &mut Request) -> Result<(), Errno> {
        let count = request.fields.u64()?;
        self.nodes.forget(request.header.node, count);
        Ok(())
    }

    pub(super) fn batch_forget(&mut self, request: &mut Request) -> Result<(), Errno> {
        let nodes = request.fields.u32()?;
        request.fields.skip(4)?;
        for _ in 0..nodes {
            let (number, count) = (request.fields.u64()?, request.fields.u64()?);
            self.nodes.forget(number, count);
        }
        Ok(())
    }

    pub(super) fn getattr(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        // By the node, whether it is open or not: its descriptor is of the same file.
        let stat = Stat::of(&self.nodes.get(request.header.node)?.fd)?;
        reply.u64(self.believed()).u64(0);
        put_attributes(reply, &stat);
        Ok(())
    }

    pub(super) fn setattr(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let change = Change::parse(&mut request.fields)?;
        let number = request.header.node;
        let wants = |bits: u32| change.valid & bits != 0;
        let node = self.nodes.get(number)?;
        let descriptor = name_of(&node.fd);
        if wants(valid::UID | valid::GID) {
            // Takes the set-id bits of a file away. They are set again below if the guest wants them.
            let owner = wants(valid::UID).then(|| Uid::from_raw(change.uid));
            let group = wants(valid::GID).then(|| Gid::from_raw(change.gid));
            fchownat(&node.fd, c"", owner, group, AtFlags::AT_EMPTY_PATH)?;
        }
        if wants(valid::MODE) {
            if node.kind == Kind::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = Mode::from_bits_truncate(change.mode & PERMISSIONS);
            fchmodat(&self.descriptors, descriptor.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if wants(valid::SIZE) {
            self.truncate(number, &change)?;
        }
        if wants(valid::ATIME | valid::MTIME) {
            // The link of the descriptor is followed, and leads to the file itself, be it a symbolic link.
            let (follow, descriptor) = (UtimensatFlags::FollowSymlink, descriptor.as_str());
            utimensat(&self.descriptors, descriptor, &change.access, &change.modification, follow)?;
        }
        self.getattr(request, reply)
    }

    fn truncate(&self, number: u64, change: &Change) -> Result<(), Errno> {
        let size = i64::try_from(change.size).map_err(|_| Errno::EFBIG)?;
        let cut = |file: BorrowedFd| {
            if change.valid & valid::KILL_SUIDGID != 0 {
                take_set_id_away(file)?;
            }
            ftruncate(file, size)
        };
        if change.valid & valid::FH != 0 {
            return cut(self.handles.get(change.handle, number)?.file.as_fd());
        }
        cut(self.reopen(number, OFlag::O_WRONLY)?.as_fd())
    }

    pub(super) fn readlink(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.nodes.get(request.header.node)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = readlinkat(&node.fd, c"")?;
        reply.put(target.as_bytes());
        Ok(())
    }

    pub(super) fn statfs(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let host = fstatvfs(&self.nodes.get(request.header.node)?.fd)?;
        let counts =
            [host.blocks(), host.blocks_free(), host.blocks_available(), host.files(), host.files_free()];
        for count in counts {
            reply.u64(count);
        }
        for size in [host.block_size(), host.name_max(), host.fragment_size()] {
            reply.u32(u32::try_from(size).unwrap_or(u32::MAX));
        }
        reply.zeroes(28);
        Ok(())
    }
}

impl Change {
    fn parse(fields: &mut Fields) -> Result<Self, Errno> {
        let valid = fields.u32()?;
        fields.skip(4)?;
        let (handle, size) = (fields.u64()?, fields.u64()?);
        // The owner of a lock.
        fields.skip(8)?;
        let [access, modification, _change] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let [access_nanos, modification_nanos, _] = [fields.u32()?, fields.u32()?, fields.u32()?];
        let mode = fields.u32()?;
        fields.skip(4)?;
        let (uid, gid) = (fields.u32()?, fields.u32()?);
        let time = |set: u32, now: u32, seconds: u64, nanoseconds: u32| match valid & (set | now) {
            0 => TimeSpec::UTIME_OMIT,
            which if which & now != 0 => TimeSpec::UTIME_NOW,
            _ => TimeSpec::new(seconds.cast_signed(), nanoseconds.into()),
        };
        let access = time(valid::ATIME, valid::ATIME_NOW, access, access_nanos);
        let modification = time(valid::MTIME, valid::MTIME_NOW, modification, modification_nanos);
        Ok(Self { valid, handle, size, access, modification, mode, uid, gid })
    }
}

/// Takes the set-user-id bit of `file` away, and the set-group-id bit if the group may execute it, as the kernel
/// does when somebody without privilege writes to it.
pub(super) fn take_set_id_away(file: BorrowedFd) -> Result<(), Errno> {
    let stat = Stat::of(file)?;
    let mode = stat.mode();
    let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    if stat.kind() != Kind::Regular || mode & (libc::S_ISUID | group) == 0 {
        return Ok(());
    }
    fchmod(file, Mode::from_bits_truncate(mode & PERMISSIONS & !(libc::S_ISUID | group)))
}
