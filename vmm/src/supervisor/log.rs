//! What a container wrote, kept for `rvm logs`: the newest 16 to 32 MiB.
//!
//! ```text
//!  record:  stream (1 byte: 2 stdout, 3 stderr)  time (8 bytes)  length (4 bytes)  bytes     all little-endian
//! ```
//!
//! `log` is appended to; when it is full it becomes `log.1`, and the `log.1` before is gone. A reader may come at any
//! time: a record that is not there whole yet is not read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::protocol::{CHUNK, Kind};
use crate::time::Timestamp;

/// Size of a file of the log at which the next one is begun.
const FULL: u64 = 16 << 20;
const HEADER: usize = 13;

/// The writing end.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    length: u64,
}

impl LogWriter {
    /// An empty log at `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::create(path)?, length: 0 })
    }

    /// Appends what came from a stream, at most [`CHUNK`] bytes.
    pub fn append(&mut self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        if self.length >= FULL {
            fs::rename(&self.path, older(&self.path))?;
            self.file = OpenOptions::new().write(true).create_new(true).open(&self.path)?;
            self.length = 0;
        }
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.push(kind as u8);
        record.extend(Timestamp::now().nanoseconds().to_le_bytes());
        record.extend(u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
        record.extend(bytes);
        self.file.write_all(&record)?;
        self.length = self.length.saturating_add(record.len() as u64);
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1")
}

/// Something that the container wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stdout or Stderr.
    pub kind: Kind,
    /// When it came.
    pub time: Timestamp,
    /// What it is.
    pub bytes: Vec<u8>,
}

/// The reading end: the older file, then the newer, then what is appended.
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
}

impl LogReader {
    /// The log at `path`, from its beginning.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = match File::open(older(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path)?,
            file => file?,
        };
        Ok(Self { path: path.to_owned(), file: BufReader::with_capacity(CHUNK, file) })
    }

    /// The next entry; `None` if there is none yet.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.read_entry()? {
                return Ok(Some(entry));
            }
            let Some(next) = self.following()? else {
                return Ok(None);
            };
            // What was appended between the last look and the turn to the next file.
            if let Some(entry) = self.read_entry()? {
                return Ok(Some(entry));
            }
            self.file = BufReader::with_capacity(CHUNK, next);
        }
    }

    /// An entry, if it is there whole.
    fn read_entry(&mut self) -> io::Result<Option<Entry>> {
        let start = self.file.stream_position()?;
        let mut header = [0; HEADER];
        if self.file.read_exact(&mut header).is_ok() {
            let (kind, time, length) = parse(header)?;
            let mut bytes = vec![0; length];
            if self.file.read_exact(&mut bytes).is_ok() {
                return Ok(Some(Entry { kind, time, bytes }));
            }
        }
        self.file.seek(io::SeekFrom::Start(start))?;
        Ok(None)
    }

    /// The file that follows the one read now, if there is one.
    fn following(&self) -> io::Result<Option<File>> {
        let current = self.file.get_ref().metadata()?.ino();
        // A name is missing between a rename and the new file, and when the container is removed.
        let newer = |path: &Path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|file| Ok(Some((file.metadata()?.ino(), file)))),
        };
        match (newer(&self.path)?, newer(&older(&self.path))?) {
            (Some((newest, _)), _) if newest == current => Ok(None),
            // A reader that is slower than two files loses what was between.
            (_, Some((older, file))) if older != current => Ok(Some(file)),
            (newest, _) => Ok(newest.map(|(_, file)| file)),
        }
    }
}

fn parse(header: [u8; HEADER]) -> io::Result<(Kind, Timestamp, usize)> {
    let [stream, time @ .., a, b, c, d] = header;
    let kind = Kind::from_number(stream).filter(|kind| matches!(kind, Kind::Stdout | Kind::Stderr));
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok().filter(|length| *length <= CHUNK);
    match (kind, length) {
        (Some(kind), Some(length)) => {
            Ok((kind, Timestamp::from_nanoseconds(u64::from_le_bytes(time)), length))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the log is damaged")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn rest(reader: &mut LogReader) -> Vec<(Kind, Vec<u8>)> {
        std::iter::from_fn(|| reader.next_entry().unwrap()).map(|entry| (entry.kind, entry.bytes)).collect()
    }

    #[test]
    fn what_was_written_is_read_and_so_is_what_comes_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut writer = LogWriter::create(&path).unwrap();
        writer.append(Kind::Stdout, b"one").unwrap();
        writer.append(Kind::Stderr, b"two").unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(rest(&mut reader), [(Kind::Stdout, b"one".to_vec()), (Kind::Stderr, b"two".to_vec())]);
        writer.append(Kind::Stdout, b"three").unwrap();
        assert_eq!(rest(&mut reader), [(Kind::Stdout, b"three".to_vec())]);
    }

    #[test]
    fn half_a_record_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        LogWriter::create(&path).unwrap().append(Kind::Stdout, b"whole").unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(LogReader::open(&path).unwrap().next_entry().unwrap(), None, "{length} bytes");
        }
    }

    #[test]
    fn a_full_log_makes_room_and_its_reader_follows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut writer = LogWriter::create(&path).unwrap();
        let chunk = vec![0; CHUNK];
        writer.append(Kind::Stdout, b"first").unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        let chunks = 2 * FULL / CHUNK as u64 + 1;
        for _ in 0..chunks / 2 {
            writer.append(Kind::Stdout, &chunk).unwrap();
        }
        let before = rest(&mut reader).len();
        for _ in chunks / 2..chunks {
            writer.append(Kind::Stdout, &chunk).unwrap();
        }
        assert_eq!(before + rest(&mut reader).len(), usize::try_from(chunks).unwrap() + 1);
        let kept = rest(&mut LogReader::open(&path).unwrap()).len() * CHUNK;
        assert!((FULL..=2 * FULL + CHUNK as u64).contains(&(kept as u64)), "{kept} bytes");
    }
}
