//! Where images are kept on this machine.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/   an OCI image layout: what was pulled, as it was pulled
//! layers/HEX.erofs                        layers as file systems, by the digests of their contents (diff ids)
//! locks/HEX                               who has one of these locked makes the blob or layer of that digest
//! tmp/                                    what is not complete
//! lock                                    shared: files are made, nothing may be removed; exclusive: the opposite
//! ```
//!
//! A file is complete and its digest checked before it gets its name, so that what has a name can be used. A process
//! that was killed leaves files in `tmp` only; who opens the store next, alone, removes them. All locks are flock(2)'s:
//! they end with the process.

mod hold;
mod index;
mod remove;
mod temporary;

pub use hold::{Hold, HoldError};
pub use index::{Index, Stored};
pub use remove::Removed;
pub use temporary::Temporary;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::digest::Digest;

/// What the store is to other tools: OCI image specification, "Image Layout".
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The images of this machine.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A part of the time in which nothing is removed from the store.
#[derive(Debug)]
pub struct Session<'a> {
    pub(super) store: &'a Store,
    _lock: Flock<File>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The host failed.
    #[error("cannot {attempt} '{path}' in the store of images")]
    Io {
        /// What was attempted, as "write".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It has been tampered with.
    #[error(
        "'{path}' in the store of images is damaged: {why}; remove the store's directory and pull the images again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn io(attempt: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { attempt, path: path.clone(), source }
    }
}

impl Store {
    /// Where the store is unless somebody says otherwise: `$RVM_DATA`; for root `/var/lib/rvm`; for others
    /// `$XDG_DATA_HOME/rvm`, that is `~/.local/share/rvm`.
    pub fn default_root() -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(data) = set("RVM_DATA") {
            return data;
        }
        if nix::unistd::geteuid().is_root() {
            return PathBuf::from("/var/lib/rvm");
        }
        let share = || set("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".local/share");
        set("XDG_DATA_HOME").unwrap_or_else(share).join("rvm")
    }

    /// Opens the store at `root`; makes it if it is not there. Removes what killed processes left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        let error = StoreError::io("make", root);
        // Images may hold secrets: the store is its owner's.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(&error)?;
        for directory in ["blobs/sha256", "layers", "locks", "tmp"] {
            fs::create_dir_all(root.join(directory)).map_err(&error)?;
        }
        let layout = root.join("oci-layout");
        if !layout.exists() {
            fs::write(&layout, LAYOUT).map_err(StoreError::io("write", &layout))?;
        }
        if let Some(_alone) = store.lock_file("lock", FlockArg::LockExclusiveNonblock)? {
            for directory in ["locks", "tmp"] {
                empty(&root.join(directory))?;
            }
        }
        Ok(store)
    }

    /// The directory it is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until nobody removes anything, and keeps it so.
    pub fn session(&self) -> Result<Session<'_>, StoreError> {
        let lock = self.lock_file("lock", FlockArg::LockShared)?;
        let lock = lock.ok_or_else(|| StoreError::io("lock", &self.root)(Errno::EAGAIN.into()))?;
        Ok(Session { store: self, _lock: lock })
    }

    /// The file of a blob, which is there or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// The file of a layer, which is there or not.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(format!("{}.erofs", diff_id.hex()))
    }

    /// A blob that is no larger than any manifest or configuration.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        fs::read(&path).map_err(StoreError::io("read", &path))
    }

    /// Locks a file of the store's, which is made if need be. None where that would be to wait, and `how` forbids it.
    fn lock_file(&self, name: &str, how: FlockArg) -> Result<Option<Flock<File>>, StoreError> {
        let path = self.root.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        lock(file, how).map_err(StoreError::io("lock", &path))
    }
}

impl Session<'_> {
    /// Waits until nobody else makes the blob or layer of this digest. Look again whether it is there.
    pub fn lock_digest(&self, digest: &Digest) -> Result<Flock<File>, StoreError> {
        let name = format!("locks/{}", digest.hex());
        let lock = self.store.lock_file(&name, FlockArg::LockExclusive)?;
        lock.ok_or_else(|| StoreError::io("lock", &self.store.root.join(name))(Errno::EAGAIN.into()))
    }

    /// A new file that is removed again unless it is kept.
    pub fn temporary(&self) -> Result<Temporary, StoreError> {
        Temporary::new(&self.store.root.join("tmp"))
    }
}

/// Locks a file; none where that would be to wait, and `how` forbids it.
fn lock(file: File, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    let mut file = file;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Removes all files in a directory.
fn empty(directory: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
        let path = entry.map_err(StoreError::io("list", directory))?.path();
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
