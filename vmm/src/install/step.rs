//! One step of an installation: what it does, in words and in deed.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::InstallError;

/// One step. Each can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file of rvm's is put in place, at once for whoever opens it.
    Copy {
        /// Where it is.
        from: PathBuf,
        /// Where it goes.
        to: PathBuf,
    },
    /// A program is found by a symbolic link.
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A configuration says this from now on.
    Write {
        /// The file.
        path: PathBuf,
        /// All of it.
        text: String,
        /// What is new in it, for people.
        what: &'static str,
    },
    /// A file or link goes.
    Remove(PathBuf),
    /// A directory goes, if it is empty.
    RemoveDirectory(PathBuf),
    /// Something that only a person can do.
    Tell(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::Link { path, target } => write!(f, "link {} to {}", path.display(), target.display()),
            Self::Write { path, what, .. } => write!(f, "write {}: {what}", path.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::RemoveDirectory(path) => {
                write!(f, "remove the directory {}, if it is empty", path.display())
            }
            Self::Tell(words) => f.write_str(words),
        }
    }
}

impl Step {
    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        match self {
            Self::Remove(path) | Self::RemoveDirectory(path) => path.symlink_metadata().is_ok(),
            Self::Write { path, text, .. } => fs::read_to_string(path).ok().as_ref() != Some(text),
            Self::Copy { .. } | Self::Link { .. } | Self::Tell(_) => true,
        }
    }

    /// Does it.
    pub fn take(&self) -> Result<(), InstallError> {
        match self {
            Self::Copy { from, to } => {
                replace(to, |new| fs::copy(from, new).map(drop)).map_err(InstallError::io("write", to))
            }
            Self::Link { path, target } => {
                let made = replace(path, |new| std::os::unix::fs::symlink(target, new));
                made.map_err(InstallError::io("link", path))
            }
            Self::Write { path, text, .. } => {
                replace(path, |new| write_like(path, new, text)).map_err(InstallError::io("write", path))
            }
            Self::Remove(path) => fs::remove_file(path).map_err(InstallError::io("remove", path)),
            Self::RemoveDirectory(path) => match fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed.map_err(InstallError::io("remove", path)),
            },
            Self::Tell(_) => Ok(()),
        }
    }
}

/// Has `make` make a new file beside `path`, which then takes its name.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".rvm-new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = make(&new).and_then(|()| fs::rename(&new, path));
    if made.is_err() {
        // The first error is the one to tell.
        fs::remove_file(&new).ok();
    }
    made
}

/// Writes a configuration that keeps the permissions of the one before.
fn write_like(before: &Path, new: &Path, text: &str) -> io::Result<()> {
    fs::write(new, text)?;
    match before.metadata() {
        Ok(meta) => fs::set_permissions(new, meta.permissions()),
        Err(_) => Ok(()),
    }
}
