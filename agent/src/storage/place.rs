//! Places below /run/rvm, by names that the host gives.
//!
//! A name cannot lead elsewhere: it has no `..`, and no symbolic link is followed on the way, for below may be
//! the root of a container, whose links are a stranger's.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::refusal::Refusal;

/// Below which all of them are.
pub const ROOT: &str = "/run/rvm";

const DIRECTORY_MODE: Mode =
    Mode::S_IRWXU.union(Mode::S_IRGRP).union(Mode::S_IXGRP).union(Mode::S_IROTH).union(Mode::S_IXOTH);

/// The path that a request names, if it is one of a place below [`ROOT`].
pub fn parse(text: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(text);
    let below = path.strip_prefix(ROOT).ok().filter(|rest| !rest.as_os_str().is_empty());
    let plain = below.is_some_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))));
    match plain && !text.contains('\0') {
        // Components leave out what does not count: doubled slashes, dots, the last slash.
        true => Ok(path.components().collect()),
        false => {
            let reason = "it has to be an absolute path below /run/rvm, without ..";
            Err(Refusal::invalid(format!("the path {text:?}"), reason))
        }
    }
}

/// What there is at a path that [`parse`] gave.
pub fn open(path: &Path) -> Result<OwnedFd, Refusal> {
    let step = || format!("open {}", path.display());
    let rest = path.strip_prefix(ROOT).unwrap_or(path);
    let root = root().map_err(Refusal::kernel(step))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(&root, rest, how).map_err(Refusal::kernel(step))
}

/// The directory at a path that [`parse`] gave; makes those that are missing.
pub fn directory(path: &Path) -> Result<OwnedFd, Refusal> {
    make(path, None)
}

/// A file at a path that [`parse`] gave, for another to be mounted on; makes what is missing.
pub fn file(path: &Path) -> Result<OwnedFd, Refusal> {
    let step = || format!("make the file {}", path.display());
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Refusal::invalid(step(), "it has no name")),
    };
    make(parent, Some(name))
}

fn root() -> io::Result<OwnedFd> {
    std::fs::create_dir_all(ROOT)?;
    Ok(openat(AT_FDCWD, ROOT, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn make(directory: &Path, file: Option<&OsStr>) -> Result<OwnedFd, Refusal> {
    let step = || format!("make {}", directory.display());
    let mut at = root().map_err(Refusal::kernel(step))?;
    for part in directory.strip_prefix(ROOT).unwrap_or(directory) {
        match mkdirat(&at, part, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(err) => return Err(Refusal::kernel(step)(err)),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, part, flags, Mode::empty()).map_err(Refusal::kernel(step))?;
    }
    let Some(name) = file else { return Ok(at) };
    let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let made = openat(&at, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    made.map_err(Refusal::kernel(|| format!("make {}", directory.join(name).display())))
}

/// Whether this is a directory.
pub fn is_directory(fd: impl AsFd) -> nix::Result<bool> {
    let FileStat { st_mode, .. } = fstat(fd)?;
    Ok(SFlag::from_bits_truncate(st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Removes what was made to mount something on, if it is empty.
pub fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    let parent = if parent == Path::new(ROOT) { root().ok() } else { open(parent).ok() };
    if let Some(parent) = parent
        && let Err(Errno::ENOTDIR) = unlinkat(&parent, name, UnlinkatFlags::RemoveDir)
        && is_empty_file(&parent, name)
    {
        // Something that will be mounted over again, or is in use, does no harm.
        let _ = unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir);
    }
}

fn is_empty_file(parent: &OwnedFd, name: &OsStr) -> bool {
    let stat = nix::sys::stat::fstatat(parent, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| {
        stat.st_size == 0 && SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::parse;
    use std::path::Path;

    #[test]
    fn a_place_is_below_run_rvm() {
        assert_eq!(parse("/run/rvm//a/./b/").unwrap(), Path::new("/run/rvm/a/b"));
        for text in [
            "",
            "/",
            "/run/rvm",
            "/run/rvm/",
            "/run/rvmx/a",
            "run/rvm/a",
            "/run/rvm/../etc",
            "/run/rvm/a/..",
            "/run/rvm/a\0b",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
