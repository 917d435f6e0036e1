//! What the entries of a layer's archive mean, as a tree for an erofs image.
//!
//! A name leads through the symbolic links of the layer itself, as it does for who unpacks the archive into a
//! directory that is the root; it cannot lead out. Whiteouts become what overlayfs understands: a character device 0:0
//! in place of a file that is removed, and the attribute `trusted.overlay.opaque` on a directory of which the layers
//! below have nothing to say. Attributes of overlayfs in the archive itself are left out: with them a layer could show
//! files of other layers under other names.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, Write};

use super::names::{self, Last};
use crate::images::erofs::{
    Attributes, ContentsWriter, Device, InodeId, Node, Tree, Xattrs, XattrsError, is_name,
};
use crate::images::tar::{Entry, EntryKind, TarError, TarReader};

/// As Linux follows them in one path (MAXSYMLINKS).
const LINKS_MAX: u32 = 40;
/// Longest target of a symbolic link (PATH_MAX, less its NUL).
const TARGET_MAX: usize = 4095;
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Attributes that mean something to overlayfs.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// What overlayfs takes for a file that is removed.
const WHITEOUT: Node = Node::Character(Device { major: 0, minor: 0 });
/// What an inode takes of memory beside names and attributes, about.
const INODE: usize = 256;

/// How much a layer may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of names, attributes and what rvm keeps of each file until the image is written: it is in memory.
    pub metadata: usize,
}

impl Default for Limits {
    /// 16 GiB of files, and 256 MiB of metadata: about a million files.
    fn default() -> Self {
        Self { bytes: 16 << 30, metadata: 256 << 20 }
    }
}

/// Why a layer's archive cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its form is wrong.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that leads out, or that no file can have.
    #[error("'{0}' is no name of a file in an image: it leads out of it, or is too long")]
    Name(String),
    /// A link to what is not there.
    #[error("'{name}' is a hard link to '{target}', which is no file of the same layer")]
    HardLink {
        /// The link.
        name: String,
        /// What it names.
        target: String,
    },
    /// A symbolic link that no file system can have.
    #[error("'{0}' is a symbolic link with a target that is empty or longer than {TARGET_MAX} bytes")]
    Target(String),
    /// A way through a file.
    #[error("'{0}' is to be in something that is no directory")]
    NotADirectory(String),
    /// A way without an end.
    #[error("'{0}' leads through more than {LINKS_MAX} symbolic links")]
    Loop(String),
    /// Attributes that no file can have.
    #[error("'{name}' cannot have its attributes")]
    Xattrs {
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: XattrsError,
    },
    /// A bomb, or a large layer.
    #[error("its files are more than the {} MiB that a layer may have; RVM_LAYER_LIMIT=SIZE allows more", .0 >> 20)]
    Bytes(u64),
    /// A bomb.
    #[error("its names and attributes of files are more than the {} MiB that a layer may have", .0 >> 20)]
    Metadata(usize),
    /// The contents of a file cannot be read or written.
    #[error("cannot copy '{name}' to the image")]
    Copy {
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads an archive to its end; contents of files go to `contents`.
pub fn apply<R: Read, W: Write + Seek, S: Read + Write + Seek>(
    archive: &mut TarReader<R>,
    contents: &mut ContentsWriter<W, S>,
    limits: &Limits,
) -> Result<Tree, ApplyError> {
    let mut layer = Layer { tree: Tree::new(implied()), left: limits.bytes, metadata: 0, limits };
    while let Some(entry) = archive.next_entry()? {
        layer.add(entry, archive, contents)?;
    }
    Ok(layer.tree)
}

struct Layer<'a> {
    tree: Tree,
    /// Bytes that files may still have.
    left: u64,
    /// Bytes of names, targets and attributes so far.
    metadata: usize,
    limits: &'a Limits,
}

impl Layer<'_> {
    fn add<R: Read, W: Write + Seek, S: Read + Write + Seek>(
        &mut self,
        entry: Entry,
        archive: &mut TarReader<R>,
        contents: &mut ContentsWriter<W, S>,
    ) -> Result<(), ApplyError> {
        let shown = String::from_utf8_lossy(&entry.name).into_owned();
        let bad_name = || ApplyError::Name(shown.clone());
        let path = names::clean(&entry.name).ok_or_else(bad_name)?;
        let (directory, last) = names::split(&path).ok_or_else(bad_name)?;
        let attributes = self.attributes(&entry, &shown)?;
        let directory = match last {
            Last::Nothing => return Ok(()),
            _ => self.directory(directory, &shown)?,
        };
        match last {
            Last::Root if entry.kind == EntryKind::Directory => {
                self.set_attributes(InodeId::ROOT, attributes);
                Ok(())
            }
            Last::Root => Err(bad_name()),
            Last::Opaque => self.make_opaque(directory, &shown),
            Last::Whiteout(removed) => self.white_out(directory, removed, &shown),
            Last::Name(name) if entry.kind == EntryKind::Directory => {
                self.add_directory(directory, name, attributes, &shown)
            }
            Last::Name(name) => {
                let id = match self.node(&entry.kind, &attributes, &shown, archive, contents)? {
                    New::Inode(node) => self.tree.add(attributes, node),
                    New::Name(id) => id,
                };
                self.tree.link(directory, name, id);
                Ok(())
            }
            Last::Nothing => Ok(()),
        }
    }

    /// What an entry adds that is no directory.
    fn node<R: Read, W: Write + Seek, S: Read + Write + Seek>(
        &mut self,
        kind: &EntryKind,
        attributes: &Attributes,
        shown: &str,
        archive: &mut TarReader<R>,
        contents: &mut ContentsWriter<W, S>,
    ) -> Result<New, ApplyError> {
        Ok(New::Inode(match kind {
            EntryKind::File { size } => {
                self.left = self.left.checked_sub(*size).ok_or(ApplyError::Bytes(self.limits.bytes))?;
                let copied = contents.write(&mut archive.contents(), *size, attributes.xattrs.size());
                Node::File(copied.map_err(|source| ApplyError::Copy { name: shown.to_owned(), source })?)
            }
            EntryKind::HardLink(target) => return self.hard_link_target(target, shown).map(New::Name),
            EntryKind::Symlink(target) if (1..=TARGET_MAX).contains(&target.len()) => {
                Node::Symlink(target.as_slice().into())
            }
            EntryKind::Symlink(_) => return Err(ApplyError::Target(shown.to_owned())),
            EntryKind::Character(major, minor) => Node::Character(Device { major: *major, minor: *minor }),
            EntryKind::Block(major, minor) => Node::Block(Device { major: *major, minor: *minor }),
            EntryKind::Fifo => Node::Fifo,
            EntryKind::Directory => Node::directory(InodeId::ROOT),
        }))
    }

    /// Adds a directory, or gives one that is there its attributes.
    fn add_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        shown: &str,
    ) -> Result<(), ApplyError> {
        let existing = self.tree.lookup(parent, name);
        if let Some(id) = existing
            && let Node::Directory { .. } = self.tree.node(id)
        {
            self.set_attributes(id, attributes);
            return Ok(());
        }
        let id = self.tree.add(attributes, Node::directory(parent));
        self.tree.link(parent, name, id);
        // What was removed and made anew has nothing of the layers below.
        match existing.is_some_and(|id| self.is_whiteout(id)) {
            true => self.make_opaque(id, shown),
            false => Ok(()),
        }
    }

    /// Removes a file of the layers below. What this layer itself has of that name stays.
    fn white_out(&mut self, directory: InodeId, name: &[u8], shown: &str) -> Result<(), ApplyError> {
        match self.tree.lookup(directory, name) {
            None => {
                let id = self.tree.add(Attributes::default(), WHITEOUT);
                self.tree.link(directory, name, id);
                Ok(())
            }
            Some(id) if matches!(self.tree.node(id), Node::Directory { .. }) => self.make_opaque(id, shown),
            Some(_) => Ok(()),
        }
    }

    fn make_opaque(&mut self, directory: InodeId, shown: &str) -> Result<(), ApplyError> {
        let set = self.tree.attributes_mut(directory).xattrs.set(OPAQUE, b"y");
        set.map_err(|source| ApplyError::Xattrs { name: shown.to_owned(), source })
    }

    fn is_whiteout(&self, id: InodeId) -> bool {
        matches!(self.tree.node(id), Node::Character(Device { major: 0, minor: 0 }))
    }

    /// Sets a directory's attributes, but for whether it is opaque.
    fn set_attributes(&mut self, id: InodeId, mut attributes: Attributes) {
        let old = self.tree.attributes_mut(id);
        attributes.xattrs.keep(OPAQUE, &old.xattrs);
        *old = attributes;
    }

    fn hard_link_target(&mut self, target: &[u8], shown: &str) -> Result<InodeId, ApplyError> {
        let missing = || ApplyError::HardLink {
            name: shown.to_owned(),
            target: String::from_utf8_lossy(target).into_owned(),
        };
        let path = names::clean(target).ok_or_else(missing)?;
        let (last, directory) = path.split_last().ok_or_else(missing)?;
        let directory = self.directory(directory, shown)?;
        let id = self.tree.lookup(directory, last).ok_or_else(missing)?;
        match self.tree.node(id) {
            Node::Directory { .. } => Err(missing()),
            _ => Ok(id),
        }
    }

    /// The directory at a path; what is missing of it is made.
    fn directory(&mut self, path: &[&[u8]], shown: &str) -> Result<InodeId, ApplyError> {
        let mut at = InodeId::ROOT;
        let mut links = 0;
        let mut left: VecDeque<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        while let Some(name) = left.pop_front() {
            if name == b".." {
                at = self.tree.parent(at);
                continue;
            }
            let Some(next) = self.tree.lookup(at, &name).filter(|id| !self.is_whiteout(*id)) else {
                self.charge(INODE + name.len())?;
                self.add_directory(at, &name, implied(), shown)?;
                left.push_front(name);
                continue;
            };
            match self.tree.node(next) {
                Node::Directory { .. } => at = next,
                Node::Symlink(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(ApplyError::Loop(shown.to_owned()));
                    }
                    let names =
                        target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
                    let names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
                    if names.iter().any(|name| name != b".." && !is_name(name)) {
                        return Err(ApplyError::Name(String::from_utf8_lossy(target).into_owned()));
                    }
                    if target.starts_with(b"/") {
                        at = InodeId::ROOT;
                    }
                    names.into_iter().rev().for_each(|name| left.push_front(name));
                }
                _ => return Err(ApplyError::NotADirectory(shown.to_owned())),
            }
        }
        Ok(at)
    }

    /// An entry's attributes; what it takes of memory is counted.
    fn attributes(&mut self, entry: &Entry, shown: &str) -> Result<Attributes, ApplyError> {
        let (mtime, mtime_ns) = entry.mtime;
        let mut xattrs = Xattrs::default();
        for (name, value) in &entry.xattrs {
            if !OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
                let set = xattrs.set(name, value);
                set.map_err(|source| ApplyError::Xattrs { name: shown.to_owned(), source })?;
            }
        }
        let target = match &entry.kind {
            EntryKind::Symlink(target) => target.len(),
            _ => 0,
        };
        self.charge(INODE + entry.name.len() + target + xattrs.size())?;
        let Entry { permissions, uid, gid, .. } = *entry;
        Ok(Attributes { permissions, uid, gid, mtime, mtime_ns, xattrs })
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ApplyError> {
        self.metadata += bytes;
        match self.metadata <= self.limits.metadata {
            true => Ok(()),
            false => Err(ApplyError::Metadata(self.limits.metadata)),
        }
    }
}

enum New {
    Inode(Node),
    Name(InodeId),
}

/// Of a directory that the archive does not have, but something in it.
fn implied() -> Attributes {
    Attributes { permissions: 0o755, ..Attributes::default() }
}
