//! The host's system calls that nix has no face for: statx(2), getdents64(2), and extended attributes by a path.

#![allow(unsafe_code, reason = "system calls that take buffers")]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_uint};
use nix::NixPath;
use nix::errno::Errno;

/// Bits of a mode that say what a file is.
const KIND_MASK: u32 = libc::S_IFMT;

/// What a file is: it decides what may be done with it on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opened for reading and writing.
    Regular,
    /// Opened for listing.
    Directory,
    /// Read as a text, never followed.
    Symlink,
    /// A device, a pipe or a socket: never opened.
    Special,
}

/// Which file it is, while it exists: device, inode, and the mount it was found through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: u64,
}

/// What the host says about a file.
#[derive(Clone, Copy)]
pub struct Stat(pub libc::statx);

impl Stat {
    /// Asks for what `fd` is open on.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        Self::ask(fd, c"", libc::AT_EMPTY_PATH)
    }

    /// Asks for the entry `name` of `directory`, itself if it is a symbolic link.
    pub fn at(directory: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        Self::ask(directory, name, libc::AT_SYMLINK_NOFOLLOW)
    }

    fn ask(directory: impl AsFd, name: &CStr, flags: c_int) -> Result<Self, Errno> {
        let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
        let wanted: c_uint = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
        let (directory, flags) = (directory.as_fd().as_raw_fd(), flags | libc::AT_NO_AUTOMOUNT);
        // SAFETY: `name` ends with a zero, and `answer` has room for what statx writes.
        let result = unsafe { libc::statx(directory, name.as_ptr(), flags, wanted, answer.as_mut_ptr()) };
        Errno::result(result)?;
        // SAFETY: all of it was zeroed, and zeroes are a value of every field.
        Ok(Self(unsafe { answer.assume_init() }))
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        let Self(stat) = self;
        Identity {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mount: stat.stx_mnt_id,
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self.mode() & KIND_MASK {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            _ => Kind::Special,
        }
    }

    /// Its kind and its permissions.
    pub fn mode(&self) -> u32 {
        self.0.stx_mode.into()
    }
}

/// Reads entries of `directory` from where it is; gives the bytes of them, 0 at the end.
pub fn read_entries(directory: &File, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (fd, room) = (directory.as_raw_fd(), buffer.len());
    // SAFETY: getdents64 writes at most `room` bytes into `buffer`.
    let read = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), room) };
    let read = Errno::result(read)?;
    usize::try_from(read).map_err(|_| Errno::EIO)
}

/// Reads the attribute `name` of the file at `path` into `value`; gives its length.
pub fn get_xattr(path: &str, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    let (at, room) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: path and name end with a zero; at most `room` bytes are written, where `value` is.
    let length =
        path.with_nix_path(|path| unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), at, room) })?;
    usize::try_from(Errno::result(length)?).map_err(|_| Errno::EIO)
}

/// Reads the names of all attributes of the file at `path` into `names`; gives their length.
pub fn list_xattr(path: &str, names: &mut [u8]) -> Result<usize, Errno> {
    let (at, room) = (names.as_mut_ptr().cast(), names.len());
    // SAFETY: the path ends with a zero; at most `room` bytes are written, where `names` is.
    let length = path.with_nix_path(|path| unsafe { libc::listxattr(path.as_ptr(), at, room) })?;
    usize::try_from(Errno::result(length)?).map_err(|_| Errno::EIO)
}

/// Sets the attribute `name` of the file at `path`; `flags` are XATTR_CREATE and XATTR_REPLACE.
pub fn set_xattr(path: &str, name: &CStr, value: &[u8], flags: c_int) -> Result<(), Errno> {
    let (at, length) = (value.as_ptr().cast(), value.len());
    let set = path.with_nix_path(|path| {
        // SAFETY: path and name end with a zero; `length` bytes are read, where `value` is.
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), at, length, flags) }
    })?;
    Errno::result(set).map(drop)
}

/// Removes the attribute `name` of the file at `path`.
pub fn remove_xattr(path: &str, name: &CStr) -> Result<(), Errno> {
    // SAFETY: path and name end with a zero.
    let removed = path.with_nix_path(|path| unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })?;
    Errno::result(removed).map(drop)
}
