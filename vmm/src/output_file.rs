//! A file that rvm writes for its user: the console's output, the trace of the boot.
//!
//! It is opened early, so that what is wrong with it is said before the machine is made, and while files may
//! still be opened. Until [`OutputFile::begin`] the user's files are as they were: nothing is emptied, and a file
//! that was made is removed again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::directory_entry::DirectoryEntry;

/// A file to be written, not begun.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// To be removed if nothing comes to be written.
    made: Option<DirectoryEntry>,
}

/// Why there can be no such file.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write {what} to '{path}': {reason}; give the path of a file, in a directory that exists, that you may write to"
)]
pub struct OutputFileError {
    /// "the console" or "the trace".
    what: &'static str,
    path: PathBuf,
    reason: io::Error,
}

impl OutputFile {
    /// Opens the file at `path`, or makes it. `what` is for the message: "the console".
    pub fn open(what: &'static str, path: &Path) -> Result<Self, OutputFileError> {
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let opened = match made {
            Ok(file) => DirectoryEntry::of(path)
                .map(|entry| Self { file, made: Some(entry) })
                .map_err(io::Error::from),
            // It was there, or is a link into nowhere.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
                file.map(|file| Self { file, made: None })
            }
            Err(error) => Err(error),
        };
        opened.map_err(|reason| OutputFileError { what, path: path.to_owned(), reason })
    }

    /// Another handle of the file, to be written to after [`Self::begin`].
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Empties the file; from now on it stays.
    pub fn begin(mut self) -> io::Result<File> {
        self.made = None;
        // A pipe or a terminal has nothing to be emptied.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.try_clone()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(entry) = &self.made {
            // One that somebody else removed meanwhile is gone as well.
            entry.remove().ok();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn the_users_files_are_as_they_were_until_it_begins() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "old").unwrap();
        for path in [&old, &new] {
            drop(OutputFile::open("the trace", path).unwrap());
        }
        assert_eq!((fs::read_to_string(&old).unwrap(), new.exists()), ("old".into(), false));
        for path in [&old, &new] {
            OutputFile::open("the trace", path).unwrap().begin().unwrap().write_all(b"x").unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "x");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let error = OutputFile::open("the trace", Path::new("/nonexistent/file")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write the trace to '/nonexistent/file': "), "{error}");
        OutputFile::open("the trace", Path::new("/dev/null")).unwrap().begin().unwrap();
    }
}
