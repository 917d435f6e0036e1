//! Open files: opening and making them, their data, its place on the host's disk.
//!
//! A file is opened on the host as the guest opens it, but for what only means something where it is done: O_APPEND
//! and the O_SYNC flags come with each WRITE and are obeyed there, so that what a mapping writes goes where it
//! belongs; O_DIRECT is between the guest's program and its kernel, the host's page cache is used all the same.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;

use libc::c_int;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, copy_file_range, fallocate, openat};
use nix::unistd::{Whence, close, fdatasync, fsync, lseek, syncfs};

use super::attributes::take_set_id_away;
use super::filesystem::FileSystem;
use super::host::{Kind, Stat};
use super::message::{Request, error_number};
use super::names::New;
use super::wire::{MAX_TRANSFER, ROOT, Reply};

/// The guest keeps nothing of the file's contents.
const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// Closing the file needs no word to the host.
const FOPEN_NOFLUSH: u32 = 1 << 5;
/// OPEN and CREATE: take set-id bits away, should the file be emptied.
const FUSE_OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// WRITE: from the guest's page cache, wherever the file is opened for appending or not.
const FUSE_WRITE_CACHE: u32 = 1 << 0;
/// WRITE: take set-id bits away.
const FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FSYNC: data only.
const FUSE_FSYNC_FDATASYNC: u32 = 1 << 0;

/// What the guest may ask of fallocate(2).
const ALLOCATIONS: c_int =
    libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
/// Most bytes copied for one request; the guest asks again for the rest. Others wait meanwhile.
const MOST_COPIED: u64 = 16 << 20;
/// How often a file that is made, found to be there, and gone again is tried to be made.
const ATTEMPTS: usize = 8;

/// The flags of an open file as Linux numbers them.
fn flags(bits: u32) -> OFlag {
    OFlag::from_bits_truncate(bits.cast_signed())
}

/// Whether a file opened with these flags is changed by it, or can be.
fn writes(flags: OFlag) -> bool {
    flags.intersects(OFlag::O_TRUNC) || flags & OFlag::O_ACCMODE != OFlag::O_RDONLY
}

impl FileSystem {
    pub(super) fn open(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let (flags, open_flags) = (flags(request.fields.u32()?), request.fields.u32()?);
        if self.rules.read_only && writes(flags) {
            return Err(Errno::EROFS);
        }
        let file = self.open_node(request.header.node, flags, open_flags)?;
        self.put_open(reply, request.header.node, file, flags)
    }

    /// Opens a regular file that is there.
    fn open_node(&self, number: u64, flags: OFlag, open_flags: u32) -> Result<File, Errno> {
        self.handles.has_room()?;
        if self.nodes.get(number)?.kind == Kind::Directory {
            return Err(Errno::EISDIR);
        }
        let file = self.reopen(number, flags & (OFlag::O_ACCMODE | OFlag::O_TRUNC))?;
        if flags.contains(OFlag::O_TRUNC) && open_flags & FUSE_OPEN_KILL_SUIDGID != 0 {
            take_set_id_away(file.as_fd())?;
        }
        Ok(file)
    }

    fn put_open(&mut self, reply: &mut Reply, node: u64, file: File, flags: OFlag) -> Result<(), Errno> {
        let handle = self.handles.add(node, file)?;
        let direct = if self.rules.cached { 0 } else { FOPEN_DIRECT_IO };
        let no_flush = if writes(flags) { 0 } else { FOPEN_NOFLUSH };
        reply.u64(handle).u32(direct | no_flush).u32(0);
        Ok(())
    }

    pub(super) fn create(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (flags, mode, umask, open_flags) =
            (flags(fields.u32()?), fields.u32()?, fields.u32()?, fields.u32()?);
        let (name, parent) = (fields.name()?, request.header.node);
        let new = New { parent, caller: request.header.caller, mode, umask };
        self.handles.has_room()?;
        let mut attempts = 0..ATTEMPTS;
        let (number, stat, file) = loop {
            match self.make_file(&new, name, flags) {
                Err(Errno::EEXIST) if !flags.contains(OFlag::O_EXCL) => {}
                made => break made?,
            }
            // There already: opened like any other, if it is a file.
            match self.find(parent, name) {
                Err(Errno::ENOENT) if attempts.next().is_some() => {}
                found => {
                    let found = found?;
                    let number = self.nodes.add(found.fd, &found.stat)?;
                    // As it is after it was opened: that may have emptied it.
                    let opened = self.open_node(number, flags, open_flags);
                    let opened = opened.and_then(|file| Ok((Stat::of(&file)?, file)));
                    let (stat, file) = self.or_forget(number, opened)?;
                    break (number, stat, file);
                }
            }
        };
        self.put_entry(reply, number, &stat);
        let opened = self.put_open(reply, number, file, flags);
        self.or_forget(number, opened)
    }

    pub(super) fn tmpfile(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (flags, mode, umask) = (flags(fields.u32()?), fields.u32()?, fields.u32()?);
        let new = New { parent: request.header.node, caller: request.header.caller, mode, umask };
        self.handles.has_room()?;
        // O_EXCL here: it can never be linked.
        let wanted = OFlag::O_TMPFILE | flags & OFlag::O_EXCL;
        let (number, stat, file) = self.open_new(&new, c".", wanted, flags)?;
        self.put_entry(reply, number, &stat);
        let opened = self.put_open(reply, number, file, flags);
        self.or_forget(number, opened)
    }

    /// Gives `result`; the lookup of `number`, of which the guest does not hear then, is taken back if it is an error.
    fn or_forget<T>(&mut self, number: u64, result: Result<T, Errno>) -> Result<T, Errno> {
        if result.is_err() {
            self.nodes.forget(number, 1);
        }
        result
    }

    pub(super) fn read(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let file = &self.handles.get(handle, request.header.node)?.file;
        reply.moved = request.transfer.read(file, offset, size.min(MAX_TRANSFER))?;
        Ok(())
    }

    pub(super) fn write(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (handle, offset, size, write_flags) =
            (fields.u64()?, fields.u64()?, fields.u32()?, fields.u32()?);
        // The owner of a lock.
        fields.skip(8)?;
        let flags = flags(fields.u32()?);
        if size > MAX_TRANSFER {
            return Err(Errno::EINVAL);
        }
        let file = &self.handles.get(handle, request.header.node)?.file;
        if write_flags & FUSE_WRITE_KILL_SUIDGID != 0 {
            take_set_id_away(file.as_fd())?;
        }
        let mut how = 0;
        if flags.contains(OFlag::O_APPEND) && write_flags & FUSE_WRITE_CACHE == 0 {
            how |= libc::RWF_APPEND;
        }
        if flags.contains(OFlag::O_SYNC) {
            how |= libc::RWF_SYNC;
        } else if flags.contains(OFlag::O_DSYNC) {
            how |= libc::RWF_DSYNC;
        }
        let written = request.transfer.write(file, offset, size, how)?;
        reply.taken = written;
        reply.u32(written).u32(0);
        Ok(())
    }

    /// A program closes the file: what the host's file system says at such an end, it is told.
    pub(super) fn flush(&mut self, request: &mut Request) -> Result<(), Errno> {
        let handle = request.fields.u64()?;
        let file = &self.handles.get(handle, request.header.node)?.file;
        close(file.try_clone().map_err(|error| error_number(&error))?)
    }

    pub(super) fn fsync(&mut self, request: &mut Request) -> Result<(), Errno> {
        let (handle, flags) = (request.fields.u64()?, request.fields.u32()?);
        let file = &self.handles.get(handle, request.header.node)?.file;
        match flags & FUSE_FSYNC_FDATASYNC {
            0 => fsync(file),
            _ => fdatasync(file),
        }
    }

    pub(super) fn syncfs(&mut self) -> Result<(), Errno> {
        match self.rules.read_only {
            true => Ok(()),
            false => syncfs(self.reopen(ROOT, OFlag::O_RDONLY)?),
        }
    }

    pub(super) fn fallocate(&mut self, request: &mut Request) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let mode = fields.u32()?.cast_signed();
        if mode & !ALLOCATIONS != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let file = &self.handles.get(handle, request.header.node)?.file;
        let [offset, length] = [offset, length].map(|bytes| i64::try_from(bytes).map_err(|_| Errno::EFBIG));
        fallocate(file, FallocateFlags::from_bits_truncate(mode), offset?, length?)
    }

    pub(super) fn lseek(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (handle, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()?.cast_signed());
        // The others are the guest's kernel's to know.
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Errno::EINVAL),
        };
        let file = &self.handles.get(handle, request.header.node)?.file;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        reply.u64(lseek(file, offset, whence)?.cast_unsigned());
        Ok(())
    }

    pub(super) fn copy_file_range(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (from, from_offset) = (fields.u64()?, fields.u64()?);
        let (to_node, to, to_offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let length = fields.u64()?.min(MOST_COPIED);
        let [mut from_offset, mut to_offset] =
            [from_offset, to_offset].map(|offset| i64::try_from(offset).unwrap_or(i64::MAX));
        let from = &self.handles.get(from, request.header.node)?.file;
        let to = &self.handles.get(to, to_node)?.file;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length)?;
        reply.u32(u32::try_from(copied).unwrap_or(u32::MAX)).u32(0);
        Ok(())
    }

    pub(super) fn release(&mut self, request: &mut Request) -> Result<(), Errno> {
        let handle = request.fields.u64()?;
        self.handles.remove(handle, request.header.node)
    }

    /// Opens a file that is made by it.
    pub(super) fn open_made(&self, new: &New, name: &CStr, how: OFlag, wanted: OFlag) -> Result<File, Errno> {
        let flags = how | wanted & OFlag::O_ACCMODE | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let parent = &self.nodes.get(new.parent)?.fd;
        Ok(File::from(openat(parent, name, flags, new.begin())?))
    }
}
