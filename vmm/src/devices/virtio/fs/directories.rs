//! Open directories: their entries, alone or with what a lookup of each would tell.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};

use super::filesystem::FileSystem;
use super::host::{self, Kind, Stat};
use super::message::Request;
use super::wire::{ROOT, Reply};

/// Most bytes of entries given at a time.
const MOST_BYTES: u32 = 64 << 10;
/// Bytes of the host's longest entry: 19 of numbers, a name of 255, its end, and up to 8.
const LONGEST_HOST_ENTRY: usize = 280;
/// Bytes of the answer to a lookup (`struct fuse_entry_out`).
const ENTRY: usize = 128;
/// Bytes of an entry before its name (`struct fuse_dirent`).
const NUMBERS: usize = 24;

/// An entry as the host has it (getdents64(2)).
struct HostEntry<'a> {
    inode: u64,
    /// Where the entry behind it is.
    next: u64,
    kind: u8,
    name: &'a CStr,
}

impl<'a> HostEntry<'a> {
    /// The first entry of `bytes`, and what is behind it.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first()?;
        let (this, behind) = bytes.split_at_checked(u16::from_le_bytes(*length).into())?;
        let name = CStr::from_bytes_until_nul(this.get(19..)?).ok()?;
        let (inode, next) = (u64::from_le_bytes(*inode), u64::from_le_bytes(*next));
        Some((Self { inode, next, kind: *kind, name }, behind))
    }
}

impl FileSystem {
    pub(super) fn opendir(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let number = request.header.node;
        self.handles.has_room()?;
        if self.nodes.get(number)?.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let file = self.reopen(number, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let handle = self.handles.add(number, file)?;
        reply.u64(handle).u32(0).u32(0);
        Ok(())
    }

    /// READDIR, and READDIRPLUS (`plus`): entries from an offset on, as many as fit.
    pub(super) fn readdir(
        &mut self,
        request: &mut Request,
        reply: &mut Reply,
        plus: bool,
    ) -> Result<(), Errno> {
        let (number, fields) = (request.header.node, &mut request.fields);
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let size = size.min(MOST_BYTES) as usize;
        // What does not fit into the reply is read again: with attributes an entry takes some five times as much.
        let room = (if plus { size / 5 } else { size }).max(LONGEST_HOST_ENTRY);
        let mut entries = std::mem::take(&mut self.scratch);
        entries.resize(room, 0);
        let read = self.read_entries(handle, number, offset, &mut entries);
        let put = read.and_then(|read| {
            let mut rest = entries.get(..read).unwrap_or_default();
            let mut position = offset;
            while let Some((entry, behind)) = HostEntry::parse(rest) {
                if !self.put_directory_entry(reply, number, &entry, size, plus) {
                    // Not one: a buffer that no entry fits into.
                    return if reply.length() == 0 { Err(Errno::EINVAL) } else { Ok((position, false)) };
                }
                (position, rest) = (entry.next, behind);
            }
            Ok((position, true))
        });
        self.scratch = entries;
        let (position, all) = put?;
        // The host is behind what it gave; if that is not where the guest goes on, it is told to seek.
        self.handles.get_mut(handle, number)?.position = all.then_some(position);
        Ok(())
    }

    /// Reads entries of an open directory from `offset` on; gives the bytes of them.
    fn read_entries(
        &mut self,
        handle: u64,
        node: u64,
        offset: u64,
        entries: &mut [u8],
    ) -> Result<usize, Errno> {
        let directory = self.handles.get_mut(handle, node)?;
        if directory.position.take() != Some(offset) {
            lseek(&directory.file, offset.cast_signed(), Whence::SeekSet)?;
        }
        host::read_entries(&directory.file, entries)
    }

    /// Adds an entry to a reply of `size` bytes at most. False when it does not fit.
    fn put_directory_entry(
        &mut self,
        reply: &mut Reply,
        parent: u64,
        entry: &HostEntry,
        size: usize,
        plus: bool,
    ) -> bool {
        let name = entry.name.to_bytes();
        let all = length_in_list(name).saturating_add(if plus { ENTRY } else { 0 });
        if reply.length().saturating_add(all) > size {
            return false;
        }
        if plus {
            self.put_lookup(reply, parent, entry);
        }
        let inode = match name {
            // What is above the shared directory is nothing to the guest.
            b".." if parent == ROOT => {
                self.nodes.get(ROOT).and_then(|root| Stat::of(&root.fd)).map_or(0, |stat| stat.0.stx_ino)
            }
            _ => entry.inode,
        };
        put_in_list(reply, inode, entry.next, entry.kind, name);
        true
    }

    /// Adds what a lookup of an entry tells, or that there was none: the guest then does its own, if it wants to
    /// know.
    fn put_lookup(&mut self, reply: &mut Reply, parent: u64, entry: &HostEntry) {
        let special = matches!(entry.name.to_bytes(), b"." | b"..");
        let found = match special || self.nodes.is_nearly_full() {
            true => Err(Errno::ENFILE),
            false => self.find(parent, entry.name),
        };
        let added = found.and_then(|found| Ok((self.nodes.add(found.fd, &found.stat)?, found.stat)));
        match added {
            Ok((number, stat)) => self.put_entry(reply, number, &stat),
            Err(_) => drop(reply.zeroes(ENTRY)),
        }
    }
}

/// Bytes of the entry of this name in a list.
pub(super) fn length_in_list(name: &[u8]) -> usize {
    NUMBERS.saturating_add(name.len()).next_multiple_of(8)
}

/// Adds an entry to a list (`struct fuse_dirent`); `next` is where the one behind it is.
pub(super) fn put_in_list(reply: &mut Reply, inode: u64, next: u64, kind: u8, name: &[u8]) {
    reply.u64(inode).u64(next).u32(u32::try_from(name.len()).unwrap_or(u32::MAX)).u32(kind.into()).put(name);
    reply.zeroes(length_in_list(name).saturating_sub(NUMBERS.saturating_add(name.len())));
}
