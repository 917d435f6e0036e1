//! Mounts by file descriptors: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2); and pivot_root(2).

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{descriptor, done};

/// fsopen(2): a file system to be configured.
pub fn open_file_system(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// fsconfig(2): sets an option, with a value or as a flag.
pub fn set_option(fs: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let (command, value) = match value {
        Some(value) => (libc::FSCONFIG_SET_STRING, value.as_ptr()),
        None => (libc::FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // SAFETY: key and value end with zero bytes and outlive the call; a flag's value is null.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key.as_ptr(), value, 0) })
}

/// fsconfig(2): makes the file system as configured.
pub fn create_file_system(fs: BorrowedFd<'_>) -> io::Result<()> {
    let (command, none) = (libc::FSCONFIG_CMD_CREATE, std::ptr::null::<u8>());
    // SAFETY: this command takes neither key nor value.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, none, none, 0) })
}

/// fsmount(2): a made file system as a mount that is attached nowhere. `attributes` are MOUNT_ATTR_*.
pub fn mount_file_system(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: fsmount takes plain numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes) })
}

/// open_tree(2): a copy of what is mounted at `path` below `directory` (with what is mounted below it, if
/// `recursive`), attached nowhere. An empty path means the directory itself.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_EMPTY_PATH | recursive).cast_unsigned();
    // SAFETY: the path ends with a zero byte and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2): attaches the mount `tree` at the file or directory `target`.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (tree.as_raw_fd(), target.as_raw_fd());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty and end with a zero byte.
    done(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })
}

/// What mount_setattr(2) changes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_SHARED, MS_PRIVATE, ...; 0: as it is.
    pub propagation: u64,
}

/// mount_setattr(2) of a mount, with a user namespace where `attributes` has MOUNT_ATTR_IDMAP.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    user_namespace: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let userns_fd = match user_namespace {
        Some(namespace) => u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
        None => 0,
    };
    let Attributes { set, clear, propagation } = attributes;
    let change = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is empty and ends with a zero byte; `change` outlives the call, and its size is given.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size,
        )
    })
}

/// pivot_root(".", "."): what is the working directory becomes the root; the old root is mounted over it.
pub fn pivot_to_working_directory() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: both paths end with a zero byte.
    done(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })
}
