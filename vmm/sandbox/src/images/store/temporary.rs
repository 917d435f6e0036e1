//! Files that are not complete.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// A file that is removed with this value, unless it gets a name in the store.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    pub(super) fn new(directory: &Path) -> Result<Self, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(StoreError::io("make", &path))?;
        Ok(Self { path, file })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file, whose contents are complete, its name; what had the name is gone. The contents are on the disk
    /// before the name is.
    pub fn keep_as(self, name: &Path) -> Result<(), StoreError> {
        let error = StoreError::io("write", name);
        self.file.sync_all().map_err(&error)?;
        fs::rename(&self.path, name).map_err(&error)?;
        let directory = name.parent().map(File::open).transpose().map_err(&error)?;
        directory.map_or(Ok(()), |directory| directory.sync_all()).map_err(&error)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Kept files are gone from here. What cannot be removed now is removed when the store is opened.
        fs::remove_file(&self.path).ok();
    }
}
