//! What keeps layers from being removed while a VM uses them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};

use super::lock;

/// Shared locks on layers: as long as they are held, by this process or one that inherited them, `rvm rmi` and
/// `rvm prune` let the layers be.
#[derive(Debug, Default)]
pub struct Hold {
    locks: Vec<Flock<File>>,
}

/// Why a layer cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody removed it.
    #[error("layer '{0}' has just been removed; pull the image again")]
    Gone(PathBuf),
    /// The host failed.
    #[error("cannot hold layer '{path}'")]
    Io {
        /// The layer.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl Hold {
    /// Holds the layers in these files. Another process can take the same hold by the same paths, before this one ends.
    pub fn take<'a>(layers: impl IntoIterator<Item = &'a Path>) -> Result<Self, HoldError> {
        let hold = |path: &Path| {
            let error = |source: io::Error| match source.kind() {
                io::ErrorKind::NotFound => HoldError::Gone(path.to_owned()),
                _ => HoldError::Io { path: path.to_owned(), source },
            };
            let file = lock(File::open(path).map_err(error)?, FlockArg::LockShared).map_err(error)?;
            let file = file.ok_or_else(|| error(io::ErrorKind::WouldBlock.into()))?;
            // It may have been removed between the opening and the lock.
            match file.metadata().map_err(error)?.nlink() {
                0 => Err(HoldError::Gone(path.to_owned())),
                _ => Ok(file),
            }
        };
        layers.into_iter().map(hold).collect::<Result<_, _>>().map(|locks| Self { locks })
    }

    /// The descriptors, in the order of the layers: for a process that is to go on holding them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.locks.iter().map(|lock| lock.as_fd())
    }

    /// Lets the descriptors through to programs that this process starts from now on.
    pub fn let_inherit(&self) -> io::Result<()> {
        self.descriptors().try_for_each(|fd| {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(|_| ()).map_err(io::Error::from)
        })
    }
}
