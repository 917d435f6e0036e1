//! The disk that takes what a container writes, where that shall not be in memory: a sparse file with ext4 on it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host refused.
    #[error("cannot make the container's disk '{}'", .path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tool is missing.
    #[error(
        "cannot make the container's disk: mkfs.ext4 is missing; install e2fsprogs, or leave out --storage-size"
    )]
    NoTool,
    /// The tool refused.
    #[error("cannot make the container's disk: mkfs.ext4 says: {0}")]
    Tool(String),
}

/// Where mkfs.ext4 is on the systems there are; an ordinary user's PATH may not have it.
const TOOL: [&str; 3] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"];

/// Makes a disk of `size` bytes at `path`.
pub fn make(path: &Path, size: u64) -> Result<(), DiskError> {
    let failed = |source| DiskError::Io { path: path.to_owned(), source };
    let made = File::create(path).and_then(|file| file.set_len(size.next_multiple_of(512))).map_err(failed);
    let made = made.and_then(|()| format(path));
    if made.is_err() {
        // The first error is the one to tell.
        fs::remove_file(path).ok();
    }
    made
}

fn format(path: &Path) -> Result<(), DiskError> {
    let tool = TOOL.iter().find(|tool| Path::new(tool).exists()).ok_or(DiskError::NoTool)?;
    // The container's files are nobody's but its own, so no blocks are kept for root.
    let output = Command::new(tool)
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DiskError::Io { path: path.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(DiskError::Tool(said.lines().next().unwrap_or("nothing").to_owned())),
    }
}
