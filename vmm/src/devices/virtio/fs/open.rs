//! Opening a directory to share, and what there is for it of the process's descriptors.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};

/// Descriptors that are not for shares: devices, vCPUs, connections.
const OTHERS: u64 = 2048;
/// Most descriptors of a share: each keeps some 2 KiB of the host's memory.
const MOST: u64 = 1 << 18;
/// Fewest, on a host that gives a process next to none.
const FEWEST: u64 = 128;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Nothing of this name.
    #[error("cannot share '{0}': there is no such directory; make it, or give the path of another")]
    Missing(PathBuf),
    /// Something else of this name.
    #[error("cannot share '{0}': it is no directory; give the path of one")]
    NotADirectory(PathBuf),
    /// This user may not look into it.
    #[error("cannot share '{0}': permission denied; let this user list and search it")]
    Permission(PathBuf),
    /// The host failed.
    #[error("cannot share '{path}'")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Opens the directory at `path`.
pub fn directory(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(path, flags, Mode::empty());
    // One that cannot be listed would look empty to the guest.
    let opened = opened.and_then(|fd| access(path, AccessFlags::R_OK | AccessFlags::X_OK).map(|()| fd));
    let path = path.to_owned();
    opened.map_err(|errno| match errno {
        Errno::ENOENT => FsError::Missing(path),
        Errno::ENOTDIR => FsError::NotADirectory(path),
        Errno::EACCES | Errno::EPERM => FsError::Permission(path),
        errno => FsError::Io { path, source: errno.into() },
    })
}

/// Lets this process have as many descriptors as the host's limit allows; gives how many each of `shares` may use.
pub fn descriptors(shares: usize) -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let each = hard.saturating_sub(OTHERS).checked_div(shares as u64).unwrap_or(0);
    usize::try_from(each.clamp(FEWEST, MOST)).map_err(io::Error::other)
}
