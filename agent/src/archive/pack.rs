//! Files into a tar archive: with owners, modes, times, extended attributes (as GNU tar and star have them, in pax
//! records SCHILY.xattr.*), hard links as such, and holes left out.
//!
//! Files change while they are read: each has the length in the archive that it had at first.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use tar::{Builder, EntryType, Header};

use crate::archive::child::Error;
use crate::sys::xattr;

/// Writes what is at `path`, and all below it if it is a directory, under the name `name`.
pub fn tree(path: &Path, name: &Path, to: impl Write) -> Result<(), Error> {
    let mut archive = Builder::new(to);
    archive.follow_symlinks(false);
    let mut packer = Packer { archive, linked: HashMap::new() };
    packer.add(path, name)?;
    let end = || "end the archive".to_owned();
    packer.archive.into_inner().and_then(|mut to| to.flush()).map_err(Error::at(end))
}

struct Packer<W: Write> {
    archive: Builder<W>,
    /// Names of files that have more than one, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path, name: &Path) -> Result<(), Error> {
        let metadata = match fs::symlink_metadata(path) {
            // It went away since its directory was read.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(Error::at(|| format!("look at {}", path.display())))?,
        };
        // An archive has no sockets.
        if metadata.file_type().is_socket() {
            return Ok(());
        }
        self.add_entry(path, name, &metadata).map_err(Error::at(|| format!("pack {}", path.display())))?;
        match metadata.is_dir() {
            true => self.add_below(path, name),
            false => Ok(()),
        }
    }

    fn add_below(&mut self, path: &Path, name: &Path) -> Result<(), Error> {
        let names = fs::read_dir(path).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let mut names = names.map_err(Error::at(|| format!("read the directory {}", path.display())))?;
        names.sort();
        names.iter().try_for_each(|entry| self.add(&path.join(entry), &name.join(entry)))
    }

    fn add_entry(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        if let Some(first) = self.first_name(name, metadata) {
            header.set_entry_type(EntryType::Link);
            return self.archive.append_link(&mut header, name, first);
        }
        // Of links they would be those of what the link leads to, on file systems that have any.
        if !metadata.is_symlink() {
            self.add_attributes(path)?;
        }
        if metadata.is_symlink() {
            self.archive.append_link(&mut header, name, fs::read_link(path)?)
        } else if metadata.is_file() {
            self.add_file(path, name, header)
        } else if metadata.is_dir() {
            // As tar(1) names it.
            self.archive.append_data(&mut header, name.join(""), io::empty())
        } else {
            self.archive.append_data(&mut header, name, io::empty())
        }
    }

    /// The name under which this file is in the archive already.
    fn first_name(&mut self, name: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if metadata.is_dir() || metadata.nlink() < 2 {
            return None;
        }
        let key = (metadata.dev(), metadata.ino());
        let first = self.linked.get(&key).cloned();
        if first.is_none() {
            self.linked.insert(key, name.to_owned());
        }
        first
    }

    fn add_attributes(&mut self, path: &Path) -> io::Result<()> {
        let attributes = xattr::all(path)?;
        let records: Vec<(String, Vec<u8>)> =
            attributes.into_iter().map(|(key, value)| (format!("SCHILY.xattr.{key}"), value)).collect();
        match records.is_empty() {
            true => Ok(()),
            false => {
                let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
                self.archive.append_pax_extensions(records)
            }
        }
    }

    fn add_file(&mut self, path: &Path, name: &Path, mut header: Header) -> io::Result<()> {
        // It may have become something else, that blocks who opens it.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it was replaced while it was packed"));
        }
        if has_holes(&metadata) {
            return self.archive.append_file(name, &mut file);
        }
        header.set_metadata(&metadata);
        let reader = Exactly { file, left: metadata.len() };
        self.archive.append_data(&mut header, name, reader)
    }
}

/// Whether a file takes less room than it is long.
fn has_holes(metadata: &Metadata) -> bool {
    metadata.blocks().saturating_mul(512) < metadata.len()
}

/// As many bytes of a file as its header says: zeros where it has become shorter.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room) else { return Ok(0) };
        let read = match self.file.read(buffer)? {
            0 => {
                buffer.fill(0);
                room
            }
            read => read,
        };
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
