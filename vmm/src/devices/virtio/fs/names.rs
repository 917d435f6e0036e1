//! Names in directories: making, linking, moving and removing what they stand for.
//!
//! What is made belongs to the process of the guest that made it: the host makes it as this process's own, and,
//! where this process may (as root), gives it away at once. Set-id bits come after that, so that no file is
//! anybody's with the rights of another. The group of a directory that hands its group on stays.
//!
//! Permissions are what the file mode creation mask of the guest's process leaves, or the directory's default ACL
//! instead: that is for the host's kernel to decide, which is given the mask.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mkdirat, mknodat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::attributes::PERMISSIONS;
use super::filesystem::{FileSystem, Found, name_of};
use super::host::{Kind, Stat};
use super::message::Request;
use super::wire::{Caller, Reply, opcode};

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
/// What RENAME2 takes, besides nothing.
const RENAMES: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

/// What is to be made, but for its name.
pub(super) struct New {
    /// Where.
    pub parent: u64,
    /// For whom.
    pub caller: Caller,
    /// Its permissions, and in MKNOD what it is.
    pub mode: u32,
    /// What the caller does not want of them.
    pub umask: u32,
}

impl New {
    /// Sets this thread's mask; gives the permissions to make it with, set-id bits left out.
    pub fn begin(&self) -> Mode {
        umask(Mode::from_bits_truncate(self.umask & 0o777));
        Mode::from_bits_truncate(self.mode & PERMISSIONS & !SET_ID)
    }
}

impl FileSystem {
    pub(super) fn mkdir(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let (mode, umask) = (request.fields.u32()?, request.fields.u32()?);
        let name = request.fields.name()?;
        let new = New { parent: request.header.node, caller: request.header.caller, mode, umask };
        mkdirat(&self.nodes.get(new.parent)?.fd, name, new.begin())?;
        self.put_made(reply, &new, name, UnlinkatFlags::RemoveDir)
    }

    pub(super) fn mknod(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let (mode, device, umask) = (request.fields.u32()?, request.fields.u32()?, request.fields.u32()?);
        request.fields.skip(4)?;
        let name = request.fields.name()?;
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => SFlag::S_IFREG,
            libc::S_IFIFO => SFlag::S_IFIFO,
            libc::S_IFSOCK => SFlag::S_IFSOCK,
            // What overlayfs marks removed files by: it is no device.
            libc::S_IFCHR if device == 0 => SFlag::S_IFCHR,
            _ => return Err(Errno::EPERM),
        };
        let new = New { parent: request.header.node, caller: request.header.caller, mode, umask };
        mknodat(&self.nodes.get(new.parent)?.fd, name, kind, new.begin(), 0)?;
        self.put_made(reply, &new, name, UnlinkatFlags::NoRemoveDir)
    }

    pub(super) fn symlink(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let (name, target) = (request.fields.name()?, request.fields.text()?);
        let new = New { parent: request.header.node, caller: request.header.caller, mode: 0, umask: 0 };
        symlinkat(target, &self.nodes.get(new.parent)?.fd, name)?;
        self.put_made(reply, &new, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Gives what was made to whom it is for, and tells the guest of it. What cannot be given is removed again.
    fn put_made(
        &mut self,
        reply: &mut Reply,
        new: &New,
        name: &CStr,
        remove: UnlinkatFlags,
    ) -> Result<(), Errno> {
        let found = self.find(new.parent, name)?;
        let made = self.give(new, found).and_then(|Found { fd, stat }| {
            let number = self.nodes.add(fd, &stat)?;
            self.put_entry(reply, number, &stat);
            Ok(())
        });
        if made.is_err() {
            self.remove_made(new, name, remove);
        }
        made
    }

    /// Makes a file of this name and opens it; gives its node as well. EEXIST when there is something.
    pub(super) fn make_file(
        &mut self,
        new: &New,
        name: &CStr,
        wanted: OFlag,
    ) -> Result<(u64, Stat, File), Errno> {
        self.open_new(new, name, OFlag::O_CREAT | OFlag::O_EXCL, wanted)
    }

    /// Makes a file by opening it, and gives it to whom it is for.
    pub(super) fn open_new(
        &mut self,
        new: &New,
        name: &CStr,
        how: OFlag,
        wanted: OFlag,
    ) -> Result<(u64, Stat, File), Errno> {
        let file = self.open_made(new, name, how, wanted)?;
        let made = self.adopt(new, &file);
        match made {
            Ok((number, stat)) => Ok((number, stat, file)),
            Err(errno) => {
                if how.contains(OFlag::O_CREAT) {
                    self.remove_made(new, name, UnlinkatFlags::NoRemoveDir);
                }
                Err(errno)
            }
        }
    }

    /// The node of a file that was just made.
    fn adopt(&mut self, new: &New, file: &File) -> Result<(u64, Stat), Errno> {
        let fd = self.reopen_descriptor(file, OFlag::O_PATH)?;
        let stat = Stat::of(&fd)?;
        let Found { fd, stat } = self.give(new, Found { fd, stat })?;
        Ok((self.nodes.add(fd, &stat)?, stat))
    }

    /// Gives what was found, and was just made, to whom it is for, and sets its set-id bits.
    fn give(&self, new: &New, made: Found) -> Result<Found, Errno> {
        let mut changed = false;
        if let Some((own_user, own_group)) = self.giver {
            let Caller { uid, gid } = new.caller;
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
            if (user, group) != (own_user, own_group) {
                let hands_on = Stat::of(&self.nodes.get(new.parent)?.fd)?.mode() & libc::S_ISGID != 0;
                let group = (!hands_on).then_some(group);
                fchownat(&made.fd, c"", Some(user), group, AtFlags::AT_EMPTY_PATH)?;
                changed = true;
            }
        }
        let set_id = new.mode & SET_ID;
        if set_id != 0 && made.stat.kind() != Kind::Symlink {
            let mode = Mode::from_bits_truncate((made.stat.mode() | set_id) & PERMISSIONS);
            let descriptor = name_of(&made.fd);
            fchmodat(&self.descriptors, descriptor.as_str(), mode, FchmodatFlags::FollowSymlink)?;
            changed = true;
        }
        match changed {
            true => Ok(Found { stat: Stat::of(&made.fd)?, ..made }),
            false => Ok(made),
        }
    }

    /// Removes what was made and could not be given to whom it is for.
    fn remove_made(&self, new: &New, name: &CStr, how: UnlinkatFlags) {
        if let Ok(parent) = self.nodes.get(new.parent) {
            // The guest is told of the first error; what is left then is as the host's file system has it.
            unlinkat(&parent.fd, name, how).ok();
        }
    }

    pub(super) fn link(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let (number, name) = (request.fields.u64()?, request.fields.name()?);
        let node = self.nodes.get(number)?;
        let parent = &self.nodes.get(request.header.node)?.fd;
        let descriptor = name_of(&node.fd);
        // The link of the descriptor is followed, and leads to the file itself, be it a symbolic link.
        linkat(&self.descriptors, descriptor.as_str(), parent, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        let stat = Stat::of(&node.fd)?;
        self.nodes.again(&stat);
        self.put_entry(reply, number, &stat);
        Ok(())
    }

    pub(super) fn unlink(&mut self, request: &mut Request) -> Result<(), Errno> {
        self.remove(request, UnlinkatFlags::NoRemoveDir)
    }

    pub(super) fn rmdir(&mut self, request: &mut Request) -> Result<(), Errno> {
        self.remove(request, UnlinkatFlags::RemoveDir)
    }

    fn remove(&mut self, request: &mut Request, how: UnlinkatFlags) -> Result<(), Errno> {
        let name = request.fields.name()?;
        unlinkat(self.nodes.get(request.header.node)?.fd.as_fd(), name, how)
    }

    /// RENAME, and RENAME2 with its flags.
    pub(super) fn rename(&mut self, request: &mut Request) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let new_parent = fields.u64()?;
        let mut flags = 0;
        if request.header.opcode == opcode::RENAME2 {
            flags = fields.u32()?;
            fields.skip(4)?;
        }
        let (name, new_name) = (fields.name()?, fields.name()?);
        if flags & !RENAMES != 0 {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (&self.nodes.get(request.header.node)?.fd, &self.nodes.get(new_parent)?.fd);
        renameat2(from, name, to, new_name, RenameFlags::from_bits_truncate(flags))
    }
}
