//! The files that the guest knows, by the numbers it knows them under.
//!
//! ```text
//!  LOOKUP, CREATE, ... ──> node, lookups + 1          FORGET ──> lookups - n; at none the node is gone
//! ```
//!
//! A node holds its file by an O_PATH descriptor: not opened, but the same file whatever happens to its names, so
//! that no path is ever walked again. The descriptor keeps the inode in existence, so an [`Identity`] means the
//! same file as long as it is in the table. Numbers are never used again: one that is forged or stale finds
//! nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::host::{Identity, Kind, Stat};
use super::wire::ROOT;

/// A file that the guest knows.
#[derive(Debug)]
pub struct Node {
    /// The file, by O_PATH.
    pub fd: OwnedFd,
    /// What it is; a file does not become something else.
    pub kind: Kind,
    identity: Identity,
    /// How often the guest was told of it.
    lookups: u64,
}

/// All files that the guest knows.
#[derive(Debug)]
pub struct Nodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<Identity, u64>,
    next: u64,
    most: usize,
}

impl Nodes {
    /// A table of what is shared, with room for `most` nodes besides. A file that is shared alone is found as an entry
    /// ([`super::lone_file`]), under a number of its own.
    pub fn new(root: OwnedFd, most: usize) -> Result<Self, Errno> {
        let stat = Stat::of(&root)?;
        let root = Node { fd: root, kind: stat.kind(), identity: stat.identity(), lookups: 1 };
        let numbers = match root.kind {
            Kind::Directory => HashMap::from([(root.identity, ROOT)]),
            _ => HashMap::new(),
        };
        Ok(Self { nodes: HashMap::from([(ROOT, root)]), numbers, next: ROOT, most })
    }

    /// The node of this number. ESTALE when the guest was not told of one.
    pub fn get(&self, number: u64) -> Result<&Node, Errno> {
        self.nodes.get(&number).ok_or(Errno::ESTALE)
    }

    /// Counts another lookup of the file that `stat` is of, if it is known; gives its number.
    pub fn again(&mut self, stat: &Stat) -> Option<u64> {
        let number = *self.numbers.get(&stat.identity())?;
        let node = self.nodes.get_mut(&number)?;
        node.lookups = node.lookups.saturating_add(1);
        Some(number)
    }

    /// Counts a lookup of the file that `fd` is of and `stat` tells about; gives its number. ENFILE when there
    /// is no room for one that is not known yet.
    pub fn add(&mut self, fd: OwnedFd, stat: &Stat) -> Result<u64, Errno> {
        if let Some(known) = self.again(stat) {
            return Ok(known);
        }
        if self.nodes.len() > self.most {
            return Err(Errno::ENFILE);
        }
        self.next = self.next.checked_add(1).ok_or(Errno::ENFILE)?;
        let node = Node { fd, kind: stat.kind(), identity: stat.identity(), lookups: 1 };
        self.numbers.insert(node.identity, self.next);
        self.nodes.insert(self.next, node);
        Ok(self.next)
    }

    /// Takes back `count` lookups of a node. Of more than there were, those that there were.
    pub fn forget(&mut self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        if let Entry::Occupied(mut entry) = self.nodes.entry(number) {
            let node = entry.get_mut();
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 {
                self.numbers.remove(&node.identity);
                entry.remove();
            }
        }
    }

    /// Forgets all but what is shared.
    pub fn clear(&mut self) {
        self.nodes.retain(|number, _| *number == ROOT);
        self.numbers.retain(|_, number| *number == ROOT);
        self.nodes.shrink_to_fit();
        self.numbers.shrink_to_fit();
    }

    /// Whether so much of the room is taken that nodes are for those who ask for them only.
    pub fn is_nearly_full(&self) -> bool {
        self.nodes.len() > self.most.saturating_sub(self.most / 4)
    }
}
