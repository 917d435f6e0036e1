//! The process that packs and unpacks: its root is the container's before it looks at a path.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::unistd::{chdir, chroot, fchdir};

use crate::archive::{pack, unpack};
use crate::refusal::in_one_line;

/// The first argument of the program when it is to be this process.
pub const CHILD: &str = "archive-child";

/// Exit codes: what the host named is not there; is not what it has to be; there is no room. 1 is everything else.
pub const EXIT_ABSENT: u8 = 2;
pub const EXIT_INVALID: u8 = 3;
pub const EXIT_FULL: u8 = 4;

/// Why the work is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program was run by somebody else.
    #[error("archive-child is run by the agent, with words that it knows")]
    Words,
    /// The container's root could not be entered.
    #[error("cannot enter the container's root")]
    Root(#[source] io::Error),
    /// Nothing is there.
    #[error("there is no {} in the container", .0.display())]
    Absent(PathBuf),
    /// Something else is there.
    #[error("{} in the container is not a directory", .0.display())]
    NoDirectory(PathBuf),
    /// The host's archive has what no archive of files has.
    #[error("the archive cannot be meant at {entry:?}: {reason}")]
    Archive {
        /// The name of its entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused a step, or the archive is broken.
    #[error("cannot {step}")]
    Step {
        /// What was attempted, on what.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// What was attempted, for `map_err`.
    pub fn at(step: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Step { step: step(), source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Absent(_) => EXIT_ABSENT,
            Self::NoDirectory(_) | Self::Archive { .. } => EXIT_INVALID,
            Self::Step { source, .. } => match innermost(source).map(Errno::from_raw) {
                Some(Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM) => EXIT_FULL,
                _ => 1,
            },
            Self::Words | Self::Root(_) => 1,
        }
    }
}

/// The kernel's error number below errors that were wrapped in others.
fn innermost(error: &io::Error) -> Option<i32> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(err) = source {
        let number = err.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if number.is_some() {
            return number;
        }
        source = err.source();
    }
    None
}

/// Does what the words behind [`CHILD`] say. Says on standard error why not.
pub fn run(words: &[OsString]) -> ExitCode {
    let Err(error) = work(words) else { return ExitCode::SUCCESS };
    eprintln!("{}", in_one_line(&error));
    ExitCode::from(error.exit_code())
}

fn work(words: &[OsString]) -> Result<(), Error> {
    let [what, path] = words else { return Err(Error::Words) };
    let stream = io::stdout().as_fd().try_clone_to_owned().map_err(Error::Root)?;
    enter(io::stdin().as_fd()).map_err(Error::Root)?;
    let (stream, path) = (File::from(stream), Path::new(path));
    match what.to_str() {
        Some("read") => read(&stream, path, false),
        Some("read-followed") => read(&stream, path, true),
        Some("write") => unpack::below(directory(path)?, &stream),
        _ => Err(Error::Words),
    }
}

/// Makes a directory this process's root.
fn enter(root: impl AsFd) -> io::Result<()> {
    fchdir(root)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// The path of a directory that is there.
fn directory(path: &Path) -> Result<&Path, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(Error::NoDirectory(path.to_owned())),
        Err(err) => Err(missing(path)(err)),
    }
}

fn read(stream: &File, path: &Path, follow: bool) -> Result<(), Error> {
    let found = match follow {
        true => fs::canonicalize(path),
        false => fs::symlink_metadata(path).map(|_| path.to_owned()),
    };
    let found = found.map_err(missing(path))?;
    // The archive's names begin with the path's last; the root has none.
    let name = path.file_name().unwrap_or(OsStr::new("."));
    pack::tree(&found, Path::new(name), stream)
}

/// Tells a path that is not there from one that cannot be looked at.
fn missing(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Absent(path.to_owned()),
        _ => Error::Step { step: format!("look at {} in the container", path.display()), source },
    }
}
