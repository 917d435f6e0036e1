//! A name in a directory of the host, to be found again when the path that led there is gone: the guest runs in a VMM that
//! has left the host's files ([`crate::jail`]).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, fchdir, unlinkat};

use crate::jail::Within;

/// A directory, and a name in it.
#[derive(Debug)]
pub struct DirectoryEntry {
    /// By O_PATH.
    directory: OwnedFd,
    name: OsString,
}

impl DirectoryEntry {
    /// What `path` names, whether or not it is there. EINVAL for a path that ends in no name.
    pub fn of(path: &Path) -> Result<Self, Errno> {
        let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { directory: open(parent, flags, Mode::empty())?, name })
    }

    /// The name.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Device and inode of what has the name, itself if it is a symbolic link.
    pub fn identity(&self) -> Result<(u64, u64), Errno> {
        let stat = fstatat(&self.directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Removes the name, which is no directory's.
    pub fn remove(&self) -> Result<(), Errno> {
        unlinkat(&self.directory, self.name(), UnlinkatFlags::NoRemoveDir)
    }

    /// Has the thread that calls, or its process, look up from the directory what has no path.
    pub fn enter(&self) -> Result<(), Errno> {
        fchdir(&self.directory)
    }

    /// Takes what `within` gives for the directory.
    pub fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        self.directory = within(self.directory.as_fd())?;
        Ok(())
    }
}
