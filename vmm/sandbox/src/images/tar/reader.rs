//! Entries of an archive, one after the other.

use std::io::{self, Read};

use super::TarError;
use super::header::{self, BLOCK, GnuSparse, Header};
use super::pax::{self, Pax};
use super::sparse::{self, Expanded, Map};

/// Longest name that is read with GNU's header for long ones; Linux has no path that is longer.
const NAME_MAX: u64 = 4096;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with contents of this many bytes.
    File {
        /// As many follow, or an error.
        size: u64,
    },
    /// A further name of an entry before it.
    HardLink(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// An entry of an archive.
#[derive(Debug)]
pub struct Entry {
    /// Its name as it stands in the archive: it may be empty, absolute, have `..` in it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions with set-id and sticky bits.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries from a stream.
pub struct TarReader<R> {
    stream: R,
    /// Bytes of the current entry in the stream that nobody has read.
    stored: u64,
    /// And what fills them up to a block.
    padding: u64,
    map: Option<Map>,
}

/// What stands in front of an entry.
#[derive(Default)]
struct Before {
    /// Whether there is anything: an entry must follow.
    read: bool,
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Reads the archive in `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, stored: 0, padding: 0, map: None }
    }

    /// The next entry; none at the end of the archive. What is left of the contents of the one before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let header = self.block()?.map(Header::parse).transpose()?.flatten();
            let Some(header) = header else {
                return if before.read { Err(TarError::Truncated("a header".into())) } else { Ok(None) };
            };
            let size = u64::try_from(header.size()?).map_err(|_| TarError::Header("its size is negative"))?;
            match header.kind() {
                b'x' => {
                    before.read = true;
                    let records = self.long(size, pax::MAX)?;
                    before.pax.read(&records)?;
                }
                // Defaults for all entries that follow. Nobody uses them for what rvm reads, and image tools skip them.
                b'g' => self.expect(size),
                kind @ (b'L' | b'K') => {
                    before.read = true;
                    let long = Some(until_nul(self.long(size, NAME_MAX + 1)?));
                    *(if kind == b'L' { &mut before.name } else { &mut before.link }) = long;
                }
                _ => return self.entry(&header, size, before).map(Some),
            }
        }
    }

    /// The contents of the current entry, with the holes of a sparse file.
    pub fn contents(&mut self) -> impl Read + '_ {
        let stored = Stored { stream: &mut self.stream, left: &mut self.stored };
        match &self.map {
            Some(map) => Body::Sparse(Expanded::new(stored, map)),
            None => Body::Plain(stored),
        }
    }

    /// Leaves the rest of the current entry to the caller, who has to skip as many bytes of the stream.
    pub fn leave(&mut self) -> u64 {
        let left = self.stored.saturating_add(self.padding);
        (self.stored, self.padding) = (0, 0);
        left
    }

    /// The stream, which is at the archive's end after the last entry.
    pub fn into_inner(self) -> R {
        self.stream
    }

    fn entry(&mut self, header: &Header, size: u64, before: Before) -> Result<Entry, TarError> {
        let Before { pax, name, link, .. } = before;
        let name = pax.path.or(name).unwrap_or_else(|| header.name());
        let link = pax.link.or(link).unwrap_or_else(|| header.link());
        let size = match pax.size {
            Some(size) => u64::try_from(size).map_err(|_| TarError::Pax("a size is negative"))?,
            None => size,
        };
        let mut entry = Entry {
            kind: EntryKind::Directory,
            permissions: u16::try_from(header.mode()? & 0o7777).unwrap_or(0),
            uid: id(pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (header.mtime()?, 0),
            },
            xattrs: pax.xattrs,
            name,
        };
        entry.kind = match header.kind() {
            // Before there was a type for directories, a slash at the end made one.
            b'0' | 0 if entry.name.ends_with(b"/") => EntryKind::Directory,
            b'S' => self.gnu_sparse(header, size, &entry.name)?,
            b'0' | 0 | b'7' => {
                self.expect(size);
                if pax.sparse.major.is_some() || pax.sparse.map.is_some() {
                    entry.name = pax.sparse.name.clone().unwrap_or(entry.name);
                    self.pax_sparse(&pax.sparse, size, &entry.name)?
                } else {
                    EntryKind::File { size }
                }
            }
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => EntryKind::Character(device(header.major()?)?, device(header.minor()?)?),
            b'4' => EntryKind::Block(device(header.major()?)?, device(header.minor()?)?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            kind => return Err(TarError::Kind { name: lossy(&entry.name), kind: char::from(kind) }),
        };
        Ok(entry)
    }

    /// A sparse file in GNU tar's own format: the map is in the header and in blocks behind it.
    fn gnu_sparse(&mut self, header: &Header, stored: u64, name: &[u8]) -> Result<EntryKind, TarError> {
        let bad = || TarError::Sparse(lossy(name));
        let GnuSparse { mut pieces, mut more, size } = header.sparse()?;
        while more {
            let block = self.block()?.ok_or_else(|| TarError::Truncated(lossy(name)))?;
            let (map, rest) = block.split_at(504);
            pieces.extend(header::sparse_map(map)?);
            more = rest.first().is_some_and(|byte| *byte != 0);
            if pieces.len() > 1 << 16 {
                return Err(bad());
            }
        }
        self.expect(stored);
        let map = Map::new(&pieces, size, stored).ok_or_else(bad)?;
        let size = map.size;
        self.map = Some(map);
        Ok(EntryKind::File { size })
    }

    /// A sparse file with pax headers: the map is in them (0.1) or in front of the data (1.0).
    fn pax_sparse(&mut self, told: &pax::Sparse, stored: u64, name: &[u8]) -> Result<EntryKind, TarError> {
        let bad = || TarError::Sparse(lossy(name));
        let pieces = match &told.map {
            Some(map) => map.clone(),
            None => {
                sparse::read_map(
                    &mut Stored { stream: &mut self.stream, left: &mut self.stored },
                    &lossy(name),
                )?
                .0
            }
        };
        let size = told.real_size.unwrap_or(i64::try_from(stored).map_err(|_| bad())?);
        let map = Map::new(&pieces, size, self.stored).ok_or_else(bad)?;
        let size = map.size;
        self.map = Some(map);
        Ok(EntryKind::File { size })
    }

    /// Sets that `size` bytes and their padding are next in the stream.
    fn expect(&mut self, size: u64) {
        self.stored = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> Result<(), TarError> {
        self.map = None;
        let left = self.leave();
        match io::copy(&mut (&mut self.stream).take(left), &mut io::sink())? {
            skipped if skipped == left => Ok(()),
            _ => Err(TarError::Truncated("the contents of an entry".into())),
        }
    }

    /// Reads the contents of a header that is more than a block.
    fn long(&mut self, size: u64, max: u64) -> Result<Vec<u8>, TarError> {
        if size > max {
            return Err(TarError::Long(size, max));
        }
        self.expect(size);
        let mut bytes = Vec::new();
        Stored { stream: &mut self.stream, left: &mut self.stored }.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The next block; none where the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut bytes = Vec::with_capacity(BLOCK);
        (&mut self.stream).take(BLOCK as u64).read_to_end(&mut bytes)?;
        match <[u8; BLOCK]>::try_from(bytes) {
            Ok(block) => Ok(Some(block)),
            Err(bytes) if bytes.is_empty() => Ok(None),
            Err(_) => Err(TarError::Truncated("a header".into())),
        }
    }
}

/// The bytes of an entry in the stream.
struct Stored<'a, R> {
    stream: &'a mut R,
    left: &'a mut u64,
}

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut *self.stream).take(*self.left).read(buffer)?;
        if read == 0 && *self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *self.left -= read as u64;
        Ok(read)
    }
}

enum Body<'a, R> {
    Plain(Stored<'a, R>),
    Sparse(Expanded<'a, Stored<'a, R>>),
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(buffer),
            Self::Sparse(expanded) => expanded.read(buffer),
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn id(number: i64) -> Result<u32, TarError> {
    u32::try_from(number).map_err(|_| TarError::Header("an owner or group is no number of 32 bits"))
}

fn device(number: i64) -> Result<u32, TarError> {
    u32::try_from(number).map_err(|_| TarError::Header("a device's number is none"))
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
