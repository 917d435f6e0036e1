//! A file that is shared alone: the guest mounts a directory that has this file in it, and that is nowhere on the host.
//!
//! virtio-fs can only share a directory. To share the one that the file is in would be to share what is beside it; so
//! the root node holds the file itself, and what is asked of the directory is answered here. No directory of the host is
//! open in such a share: a request that named an entry of one, whatever it said, would meet ENOTDIR.

use std::os::fd::AsFd;

use nix::errno::Errno;
use rvm_config::SHARED_FILE;

use super::directories::{length_in_list, put_in_list};
use super::filesystem::{FileSystem, put_attributes};
use super::host::{Kind, Stat};
use super::message::{Request, error_number};
use super::wire::{ROOT, Reply, opcode};

/// A directory (S_IFDIR) that can be listed and searched by all, and changed by nobody.
const DIRECTORY_MODE: u16 = 0o040_555;
/// Its inode, which only the guest's programs see.
const INODE: u64 = 1;

impl FileSystem {
    /// Whether what is shared is a file.
    pub(super) fn is_lone_file(&self) -> Result<bool, Errno> {
        Ok(self.nodes.get(ROOT)?.kind == Kind::Regular)
    }

    /// Carries out `request`, which is one to the directory.
    pub(super) fn handle_directory_of_file(
        &mut self,
        request: &mut Request,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        match request.header.opcode {
            opcode::FORGET | opcode::RELEASEDIR | opcode::FSYNCDIR => Ok(()),
            opcode::LOOKUP => self.lookup_file(request, reply),
            opcode::GETATTR => {
                let stat = self.directory_of_file()?;
                reply.u64(self.believed()).u64(0);
                put_attributes(reply, &stat);
                Ok(())
            }
            opcode::OPENDIR => {
                // No handle is kept for it.
                reply.u64(0).u32(0).u32(0);
                Ok(())
            }
            opcode::READDIR => self.list_file(request, reply),
            opcode::STATFS => self.statfs(request, reply),
            opcode::SYNCFS => self.syncfs(),
            opcode::GETXATTR => Err(Errno::ENODATA),
            _ => Err(Errno::EPERM),
        }
    }

    fn lookup_file(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        if request.fields.name()?.to_bytes() != SHARED_FILE.as_bytes() {
            return Err(Errno::ENOENT);
        }
        let root = &self.nodes.get(ROOT)?.fd;
        let stat = Stat::of(root)?;
        let fd = root.as_fd().try_clone_to_owned().map_err(|error| error_number(&error))?;
        let number = self.nodes.add(fd, &stat)?;
        self.put_entry(reply, number, &stat);
        Ok(())
    }

    /// What there is to say of the directory: times are the file's.
    fn directory_of_file(&self) -> Result<Stat, Errno> {
        let Stat(mut stat) = Stat::of(&self.nodes.get(ROOT)?.fd)?;
        stat.stx_mode = DIRECTORY_MODE;
        (stat.stx_ino, stat.stx_nlink) = (INODE, 2);
        (stat.stx_size, stat.stx_blocks, stat.stx_uid, stat.stx_gid) = (0, 0, 0, 0);
        Ok(Stat(stat))
    }

    /// READDIR: the entries from an offset on, which counts them.
    fn list_file(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (_handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let file = Stat::of(&self.nodes.get(ROOT)?.fd)?.0.stx_ino;
        let entries =
            [(INODE, libc::DT_DIR, "."), (INODE, libc::DT_DIR, ".."), (file, libc::DT_REG, SHARED_FILE)];
        for ((inode, kind, name), next) in entries.into_iter().zip(1..) {
            let name = name.as_bytes();
            if reply.length().saturating_add(length_in_list(name)) > size as usize {
                break;
            }
            if next > offset {
                put_in_list(reply, inode, next, kind, name);
            }
        }
        Ok(())
    }
}
