//! What will be in an image: inodes, and their names in directories. Contents are elsewhere.
//!
//! A tree can always be written: names are checked when they are added, every directory but the root has one name,
//! and an inode without a name is not written.

use std::collections::BTreeMap;

use super::contents::Contents;
use super::xattrs::Xattrs;

/// An inode of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// Its place in the order in which inodes were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything of a file but its names and contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with set-id and sticky bits.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_ns: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The driver's.
    pub major: u32,
    /// Within the driver.
    pub minor: u32,
}

impl Device {
    /// The kernel's 32 bits for it (`new_encode_dev`): 12 of the major, 20 of the minor number.
    pub fn encode(self) -> u32 {
        (self.minor & 0xff) | (self.major & 0xfff) << 8 | (self.minor & 0xf_ff00) << 12
    }
}

/// What an inode is.
#[derive(Debug)]
pub enum Node {
    /// A directory: its parent and its names.
    Directory {
        /// The directory it is in; the root is in itself.
        parent: InodeId,
        /// By name.
        entries: BTreeMap<Box<[u8]>, InodeId>,
    },
    /// A file with contents.
    File(Contents),
    /// A symbolic link and its target, of at most a block.
    Symlink(Box<[u8]>),
    /// A character device.
    Character(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Node {
    /// An empty directory in `parent`.
    pub fn directory(parent: InodeId) -> Self {
        Self::Directory { parent, entries: BTreeMap::new() }
    }
}

#[derive(Debug)]
pub(super) struct Inode {
    pub attributes: Attributes,
    pub node: Node,
}

/// The inodes of an image. The first is the root directory.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
}

impl Tree {
    /// A tree with a root directory and nothing else.
    pub fn new(root: Attributes) -> Self {
        Self { inodes: vec![Inode { attributes: root, node: Node::directory(InodeId::ROOT) }] }
    }

    /// Inodes, those without a name included.
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Adds an inode, under no name as yet.
    pub fn add(&mut self, attributes: Attributes, node: Node) -> InodeId {
        let id = u32::try_from(self.inodes.len()).expect("there is no memory for 2^32 inodes");
        self.inodes.push(Inode { attributes, node });
        InodeId(id)
    }

    /// What an inode is.
    pub fn node(&self, id: InodeId) -> &Node {
        &self.inode(id).node
    }

    /// An inode's attributes.
    pub fn attributes_mut(&mut self, id: InodeId) -> &mut Attributes {
        &mut self.inode_mut(id).attributes
    }

    /// The inode with this name in a directory; none where `directory` is none.
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        match self.node(directory) {
            Node::Directory { entries, .. } => entries.get(name).copied(),
            _ => None,
        }
    }

    /// The directory that a directory is in.
    pub fn parent(&self, directory: InodeId) -> InodeId {
        match self.node(directory) {
            Node::Directory { parent, .. } => *parent,
            _ => InodeId::ROOT,
        }
    }

    /// Gives an inode a name in a directory; what had the name loses it.
    ///
    /// # Panics
    ///
    /// If `directory` is none, or the name cannot be one: callers have checked names that come from outside.
    pub fn link(&mut self, directory: InodeId, name: &[u8], id: InodeId) {
        assert!(is_name(name), "a checked name");
        match &mut self.inode_mut(directory).node {
            Node::Directory { entries, .. } => entries.insert(name.into(), id),
            _ => panic!("names are in directories"),
        };
    }

    /// The inodes with a name, in the order in which they were added, each with the number of its names.
    pub(super) fn reachable(&self) -> Vec<(InodeId, u32)> {
        let mut links = vec![0_u32; self.inodes.len()];
        let mut open = vec![InodeId::ROOT];
        // The root is its own parent.
        links[0] = 2;
        while let Some(directory) = open.pop() {
            let Node::Directory { entries, .. } = self.node(directory) else { continue };
            for &entry in entries.values() {
                links[entry.index()] += 1;
                if matches!(self.node(entry), Node::Directory { .. }) {
                    // Its own `.`, and its `..`, which is a name of the parent.
                    links[entry.index()] += 1;
                    links[directory.index()] += 1;
                    open.push(entry);
                }
            }
        }
        (0..).map(InodeId).zip(links).filter(|(_, links)| *links > 0).collect()
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        // An id is only ever made by `add` of this tree.
        &self.inodes[id.index()]
    }

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }
}

/// Whether a file can have this name.
pub fn is_name(name: &[u8]) -> bool {
    let bounds = 1..=super::NAME_MAX;
    bounds.contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
