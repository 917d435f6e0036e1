//! Extended attributes, POSIX ACLs among them. The host keeps them, beside the file.
//!
//! They are reached by the name of the node's descriptor in this thread's working directory
//! ([`FileSystem::enter_thread`]): so also those of what cannot be opened. All can be read. Set and removed can be
//! the user's (`user.*`), ACLs, file capabilities, and, by a VMM that is root, `trusted.*`, which overlayfs in a
//! guest needs: not the labels of the host's own security modules.

use nix::errno::Errno;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

use super::attributes::PERMISSIONS;
use super::filesystem::{FileSystem, name_of};
use super::host::{self, Stat};
use super::message::Request;
use super::wire::Reply;

/// Longest value, and longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const LONGEST: u32 = 64 << 10;

/// An ACL is set by somebody without the right to a set-group-id bit: it goes.
const FUSE_SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const CAPABILITIES: &[u8] = b"security.capability";

/// Whether the guest may set the attribute of this name.
fn may_set(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || ACLS.contains(&name)
        || name == CAPABILITIES
}

impl FileSystem {
    pub(super) fn getxattr(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let size = request.fields.u32()?;
        request.fields.skip(4)?;
        let name = request.fields.text()?;
        let path = name_of(&self.nodes.get(request.header.node)?.fd);
        let got = self.read_attribute(reply, size, |value| host::get_xattr(&path, name, value));
        match got {
            // The guest's kernel asks for ACLs to decide with, and takes this for an error.
            Err(Errno::EOPNOTSUPP) if ACLS.contains(&name.to_bytes()) => Err(Errno::ENODATA),
            got => got,
        }
    }

    pub(super) fn listxattr(&mut self, request: &mut Request, reply: &mut Reply) -> Result<(), Errno> {
        let size = request.fields.u32()?;
        let path = name_of(&self.nodes.get(request.header.node)?.fd);
        self.read_attribute(reply, size, |names| host::list_xattr(&path, names))
    }

    /// Answers with what `read` gives for a buffer of `size` bytes, or, for none, with the length of it.
    fn read_attribute(
        &mut self,
        reply: &mut Reply,
        size: u32,
        read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        self.scratch.resize(size.min(LONGEST) as usize, 0);
        let length = read(&mut self.scratch)?;
        if size == 0 {
            reply.u32(u32::try_from(length).unwrap_or(u32::MAX)).u32(0);
        } else {
            reply.put(self.scratch.get(..length).ok_or(Errno::EIO)?);
        }
        Ok(())
    }

    pub(super) fn setxattr(&mut self, request: &mut Request) -> Result<(), Errno> {
        let fields = &mut request.fields;
        let (size, flags, acl_flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.skip(4)?;
        let name = fields.text()?;
        let value = fields.bytes(size as usize)?;
        if !may_set(name.to_bytes()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.nodes.get(request.header.node)?;
        let path = name_of(&node.fd);
        host::set_xattr(&path, name, value, flags.cast_signed())?;
        let mode = Stat::of(&node.fd)?.mode();
        if acl_flags & FUSE_SETXATTR_ACL_KILL_SGID != 0 && mode & libc::S_ISGID != 0 {
            let mode = Mode::from_bits_truncate(mode & PERMISSIONS & !libc::S_ISGID);
            fchmodat(&self.descriptors, path.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }

    pub(super) fn removexattr(&mut self, request: &mut Request) -> Result<(), Errno> {
        let name = request.fields.text()?;
        if !may_set(name.to_bytes()) {
            return Err(Errno::EOPNOTSUPP);
        }
        host::remove_xattr(&name_of(&self.nodes.get(request.header.node)?.fd), name)
    }
}
