//! The container's root file system, and paths in it: every one is resolved by the kernel below the root, whatever
//! links the image has (openat2(2), RESOLVE_IN_ROOT).
//!
//! What is made is made in a directory that was resolved so, by its last name only, and never through a link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// A directory that is the root of a container.
pub struct Root(OwnedFd);

/// Mode of what is made on the way to a mount.
const DIRECTORY: Mode = Mode::from_bits_retain(0o755);
const FILE: Mode = Mode::from_bits_retain(0o644);

impl Root {
    /// The root that is `directory`.
    pub fn at(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// This process's own root.
    pub fn own() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open("/", flags, Mode::empty())?))
    }

    /// Opens what is at `path`. Links are followed, `..` and absolute ones inside the root.
    pub fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        self.open_how(path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    /// Opens what is at `path`, on the way to which no link may be.
    pub fn open_without_links(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        self.open_how(path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn open_how(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        loop {
            match openat2(&self.0, path, how) {
                // Something was renamed meanwhile, and the kernel could not tell whether the path left the root.
                Err(Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    /// The directory at `path`; what is missing on the way is made.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut way = PathBuf::from("/");
        let mut at = self.open(&way, flags)?;
        for component in path.components() {
            way.push(component);
            at = match self.open(&way, flags) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    let Component::Normal(name) = component else {
                        return Err(err);
                    };
                    mkdirat(&at, name, DIRECTORY)?;
                    self.open(&way, flags)?
                }
                result => result?,
            };
        }
        Ok(at)
    }

    /// The file (or whatever is no directory) at `path`; made empty if it is missing.
    pub fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let (parent, name) = self.parent(path)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&parent, name, flags, FILE)?;
        self.open(path, OFlag::O_PATH)
    }

    /// The directory that `path` is in, made if it is missing, and the last name of `path`.
    pub fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        Ok((self.directory(parent)?, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
