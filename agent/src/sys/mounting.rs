//! The mount calls of Linux since 5.2 (fsopen(2) and what follows it), which mount by descriptors, not by names.

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// What a mount point is to be like; of `<linux/mount.h>`.
pub use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
};

/// A descriptor that a system call has just made.
fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    let number = Errno::result(result)?;
    let number = c_int::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel made the descriptor for this call; it belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Begins to set a file system of this type up: fsopen(2).
pub fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the type is a string that ends.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

fn fsconfig(context: &OwnedFd, command: c_uint, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
    let key = key.map_or(ptr::null(), CStr::as_ptr);
    let value = value.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: key and value are null or strings that end; the last argument is of no use to these commands.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Gives a file system a parameter, with a value or as a flag: fsconfig(2).
pub fn set_parameter(context: &OwnedFd, key: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let command = if value.is_some() { libc::FSCONFIG_SET_STRING } else { libc::FSCONFIG_SET_FLAG };
    fsconfig(context, command, Some(key), value)
}

/// Makes the file system, and a mount of it that is nowhere yet: fsmount(2).
pub fn make_mount(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    fsconfig(context, libc::FSCONFIG_CMD_CREATE, None, None)?;
    let flags = libc::FSMOUNT_CLOEXEC;
    // SAFETY: the call takes numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), flags, attributes) })
}

/// Another mount of what is at a descriptor, with all that is mounted below it: open_tree(2).
pub fn clone_mount(at: impl AsFd) -> io::Result<OwnedFd> {
    let at = at.as_fd().as_raw_fd();
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE).unsigned_abs();
    // SAFETY: the path is empty and ends.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, at, c"".as_ptr(), flags) })
}

/// Sets attributes of a mount and of all below it: mount_setattr(2).
pub fn set_attributes(mount: &OwnedFd, attributes: u64) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is empty and ends; the kernel reads as much of the attributes as their size says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Puts a mount where a descriptor is: move_mount(2).
pub fn attach(mount: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (mount, target) = (mount.as_raw_fd(), target.as_raw_fd());
    let empty = c"".as_ptr();
    // SAFETY: both paths are empty and end.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, mount, empty, target, empty, flags) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Reads the partition table of a disk again.
pub fn reread_partitions(disk: impl AsFd) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    let result = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKRRPART) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// `_IO(0x12, 95)` of `<linux/fs.h>`.
const BLKRRPART: libc::Ioctl = 0x125f;
