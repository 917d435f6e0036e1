//! Contents of directories.
//!
//! In each block: entries of 12 bytes (node number, where the name starts in the block, type), then their names
//! without anything between them. Names are in the order of their bytes through all blocks, `.` and `..` among them.

use super::format::{BLOCK, BLOCK_LEN, Bytes};
use super::tree::{InodeId, Node, Tree};

const ENTRY: usize = 12;

/// A directory's names, split into blocks.
pub struct Blocks<'a> {
    blocks: Vec<Vec<(&'a [u8], InodeId)>>,
}

impl<'a> Blocks<'a> {
    /// Those of `directory`, which is at `id`.
    pub fn of(tree: &'a Tree, id: InodeId) -> Self {
        let mut names: Vec<(&[u8], InodeId)> = vec![(b".", id), (b"..", tree.parent(id))];
        if let Node::Directory { entries, .. } = tree.node(id) {
            names.extend(entries.iter().map(|(name, entry)| (&**name, *entry)));
        }
        names.sort_unstable();

        let mut blocks = vec![Vec::new()];
        let mut used = 0;
        for (name, entry) in names {
            if used + ENTRY + name.len() > BLOCK_LEN {
                blocks.push(Vec::new());
                used = 0;
            }
            used += ENTRY + name.len();
            if let Some(block) = blocks.last_mut() {
                block.push((name, entry));
            }
        }
        Self { blocks }
    }

    /// Bytes: whole blocks, and what is used of the last.
    pub fn size(&self) -> u64 {
        let last: usize = self.blocks.last().into_iter().flatten().map(|(name, _)| ENTRY + name.len()).sum();
        (self.blocks.len() as u64 - 1) * BLOCK + last as u64
    }

    /// The bytes; `number` is the node number and type of an inode.
    pub fn bytes(&self, number: impl Fn(InodeId) -> (u64, u8)) -> Vec<u8> {
        let mut bytes = Bytes::default();
        for block in &self.blocks {
            bytes.align(BLOCK_LEN);
            let mut name_at = ENTRY * block.len();
            for (name, entry) in block {
                let (node, kind) = number(*entry);
                bytes.u64(node);
                bytes.u16(u16::try_from(name_at).expect("names are in a block of 4096 bytes"));
                bytes.u8(kind);
                bytes.u8(0);
                name_at += name.len();
            }
            for (name, _) in block {
                bytes.slice(name);
            }
        }
        bytes.into_vec()
    }
}
