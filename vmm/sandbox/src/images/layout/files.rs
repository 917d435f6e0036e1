//! The files of a layout, in a directory or in an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{OriginError, manifest, read_small};

/// Files with names relative to the layout.
#[derive(Clone)]
pub enum Files {
    /// In a directory.
    Directory(PathBuf),
    /// In an archive: where each starts, and how long it is.
    Archive(Arc<File>, Arc<HashMap<String, (u64, u64)>>),
}

impl Files {
    /// Whether a file is there.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Archive(_, members) => members.contains_key(name),
        }
    }

    /// Opens a file.
    pub fn open(&self, place: &str, name: &str) -> Result<Box<dyn Read + Send>, OriginError> {
        let missing = || OriginError::Missing { place: place.to_owned(), what: format!("file '{name}'") };
        match self {
            Self::Directory(path) => match File::open(path.join(name)) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
                Err(source) => {
                    Err(OriginError::Io { place: place.to_owned(), what: format!("'{name}'"), source })
                }
            },
            Self::Archive(file, members) => {
                let (at, size) = *members.get(name).ok_or_else(missing)?;
                Ok(Box::new(Member { file: file.clone(), at, left: size }))
            }
        }
    }

    /// Reads a manifest or configuration.
    pub fn read_small(&self, place: &str, name: &str) -> Result<Vec<u8>, OriginError> {
        let error = |source| OriginError::Io { place: place.to_owned(), what: format!("'{name}'"), source };
        read_small(self.open(place, name)?, manifest::MAX).map_err(error)
    }
}

/// A file in an archive.
struct Member {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
