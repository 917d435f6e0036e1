//! The files that a guest boots from, opened: what can be wrong with them before their content is looked at.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The kernel.
    Kernel,
    /// The initial RAM file system.
    Initrd,
}

/// A file together with the path it was opened by, for messages.
#[derive(Debug)]
pub struct NamedFile {
    /// Open for reading; a regular file.
    pub file: File,
    /// As the user gave it.
    pub path: PathBuf,
    /// In bytes; not 0.
    pub length: u64,
}

/// Why a guest cannot boot from a file, whatever is in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("cannot open {0} '{1}': there is no such file; give the path of {advice}", advice = .0.advice())]
    Missing(FileKind, PathBuf),
    /// Not for this user.
    #[error("cannot open {0} '{1}': permission denied; let this user read it")]
    Denied(FileKind, PathBuf),
    /// A directory, a device.
    #[error("cannot open {kind} '{path}': it is {found}; give the path of {advice}", advice = .kind.advice())]
    NotAFile {
        /// What it should be.
        kind: FileKind,
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No byte in it.
    #[error("cannot use {0} '{1}': the file is empty; give the path of {advice}", advice = .0.advice())]
    Empty(FileKind, PathBuf),
    /// The host failed.
    #[error("cannot open {kind} '{path}'")]
    Io {
        /// What it should be.
        kind: FileKind,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

impl FileKind {
    const fn advice(self) -> &'static str {
        match self {
            Self::Kernel => "an ELF vmlinux or a bzImage",
            Self::Initrd => "a cpio archive",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

impl NamedFile {
    /// Opens `path` for reading.
    pub fn open(kind: FileKind, path: PathBuf) -> Result<Self, OpenError> {
        // Without waiting for the other end, should it be a pipe.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path);
        let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = match opened {
            Ok(opened) => opened,
            Err(source) => return Err(OpenError::of(kind, path, source)),
        };
        let found = match metadata.file_type() {
            kind if kind.is_file() => None,
            kind if kind.is_dir() => Some("a directory"),
            kind if kind.is_fifo() => Some("a pipe"),
            _ => Some("a device"),
        };
        match (found, metadata.len()) {
            (Some(found), _) => Err(OpenError::NotAFile { kind, path, found }),
            (None, 0) => Err(OpenError::Empty(kind, path)),
            (None, length) => Ok(Self { file, path, length }),
        }
    }
}

impl OpenError {
    fn of(kind: FileKind, path: PathBuf, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => Self::Missing(kind, path),
            Some(Errno::EACCES | Errno::EPERM) => Self::Denied(kind, path),
            Some(Errno::ENXIO) => Self::NotAFile { kind, path, found: "a socket" },
            _ => Self::Io { kind, path, source },
        }
    }
}
