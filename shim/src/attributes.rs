//! What holds for a mount and for all that is mounted below it: mount_setattr(2), since Linux 5.12. mount(2) changes the topmost
//! alone.
#![allow(unsafe_code, reason = "mount_setattr(2) has no wrapper")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;

/// On the host nobody runs programs of what is shown to a guest, or opens devices of it: whoever breaks out of the guest into
/// the VMM cannot, either.
const ALWAYS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Restricts the mount at `path` and all below it, and gives them this propagation. What they are restricted by already stays.
pub fn restrict(path: &Path, read_only: bool, propagation: MsFlags) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: if read_only { ALWAYS | libc::MOUNT_ATTR_RDONLY } else { ALWAYS },
        attr_clr: 0,
        propagation: propagation.bits(),
        userns_fd: 0,
    };
    let flags = libc::AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path ends; the kernel reads as much of the attributes as their size says, and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS) => Err(io::Error::other(
            "the host's kernel cannot restrict what is mounted below it (mount_setattr(2)); use Linux 5.12 or later",
        )),
        Err(error) => Err(error.into()),
    }
}
