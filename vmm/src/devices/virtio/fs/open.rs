//! Opening a directory or a file to share, and what there is for it of the process's descriptors.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};
use rvm_config::Share;

use super::host::{Kind, Stat};

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
    #[error("cannot share '{0}': there is nothing of this name; make it, or give the path of another")]
    Missing(PathBuf),
    /// Something else of this name.
    #[error("cannot share '{0}': it is no directory; give the path of one, or say that it is a file")]
    NotADirectory(PathBuf),
    /// Something else where a file is to be shared.
    #[error("cannot share '{0}' as a file: it is no regular file; give the path of one")]
    NotAFile(PathBuf),
    /// This user may not look into it.
    #[error("cannot share '{0}': permission denied; let this user read it, and list and search a directory")]
    Permission(PathBuf),
    /// The host failed.
    #[error("cannot share '{path}'")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Opens what `share` names, if it is what `share` says: the directory, or the file.
pub fn root(share: &Share) -> Result<OwnedFd, FsError> {
    let path = &share.path;
    let (kind, rights, flags) = match share.file {
        false => (Kind::Directory, AccessFlags::R_OK | AccessFlags::X_OK, OFlag::O_DIRECTORY),
        true => (Kind::Regular, AccessFlags::R_OK, OFlag::empty()),
    };
    let opened = open(path, flags | OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    // One that cannot be read would look empty to the guest.
    let opened = opened.and_then(|fd| access(path, rights).map(|()| fd));
    let stated = opened.and_then(|fd| Ok((Stat::of(&fd)?.kind(), fd)));
    match stated {
        Ok((found, fd)) if found == kind => Ok(fd),
        Ok(_) if share.file => Err(FsError::NotAFile(path.clone())),
        Ok(_) | Err(Errno::ENOTDIR) => Err(FsError::NotADirectory(path.clone())),
        Err(Errno::ENOENT) => Err(FsError::Missing(path.clone())),
        Err(Errno::EACCES | Errno::EPERM) => Err(FsError::Permission(path.clone())),
        Err(errno) => Err(FsError::Io { path: path.clone(), source: errno.into() }),
    }
}

/// Bounds the descriptors of this process to what it can have a use for, as far as the host allows that many; gives how many
/// each of `shares` may use.
pub fn descriptors(shares: usize) -> io::Result<usize> {
    let limit_to = |(limit, each)| setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map(|()| each);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let kernels = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    // Root may go beyond its own limit, which is a few thousand where no service manager has raised it.
    let each = limit_to(divide(kernels.unwrap_or(hard), shares as u64))
        .or_else(|_| limit_to(divide(hard, shares as u64)))?;
    usize::try_from(each).map_err(io::Error::other)
}

/// Of at most `hard` descriptors: how many the process may have, and how many each of `shares`.
fn divide(hard: u64, shares: u64) -> (u64, u64) {
    let each = hard.saturating_sub(OTHERS).checked_div(shares).unwrap_or(0).clamp(FEWEST, MOST);
    (hard.min(OTHERS.saturating_add(each.saturating_mul(shares))), each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_the_descriptors_that_it_has_a_use_for() {
        // What the host allows, the number of shares; the limit, and what a share has of it.
        for (hard, shares, expected) in [
            (1 << 20, 0, (2048, FEWEST)),
            (1 << 20, 1, (2048 + MOST, MOST)),
            (u64::MAX, 2, (2048 + 2 * MOST, MOST)),
            (1 << 18, 2, (1 << 18, (MOST - 2048) / 2)),
            (1024, 1, (1024, FEWEST)),
            (1024, 0, (1024, FEWEST)),
        ] {
            assert_eq!(divide(hard, shares), expected, "{hard} for {shares}");
        }
    }
}
