//! What the guest has open, by the numbers it knows it under. Numbers are never used again.

use std::collections::HashMap;
use std::fs::File;

use nix::errno::Errno;

/// An open file or directory.
#[derive(Debug)]
pub struct Handle {
    /// The node it was opened through.
    pub node: u64,
    /// The file, opened.
    pub file: File,
    /// Of a directory: where the next entry is read from, if that is known.
    pub position: Option<u64>,
}

/// Everything that the guest has open.
#[derive(Debug)]
pub struct Handles {
    handles: HashMap<u64, Handle>,
    next: u64,
    most: usize,
}

impl Handles {
    /// A table with room for `most`.
    pub fn new(most: usize) -> Self {
        Self { handles: HashMap::new(), next: 0, most }
    }

    /// Whether another one has room. ENFILE when not.
    pub fn has_room(&self) -> Result<(), Errno> {
        if self.handles.len() < self.most { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// Keeps `file`, opened through `node`; gives its number.
    pub fn add(&mut self, node: u64, file: File) -> Result<u64, Errno> {
        self.has_room()?;
        self.next = self.next.checked_add(1).ok_or(Errno::ENFILE)?;
        self.handles.insert(self.next, Handle { node, file, position: Some(0) });
        Ok(self.next)
    }

    /// What `node` was opened as under this number. EBADF when it was not.
    pub fn get(&self, number: u64, node: u64) -> Result<&Handle, Errno> {
        self.handles.get(&number).filter(|handle| handle.node == node).ok_or(Errno::EBADF)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u64, node: u64) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&number).filter(|handle| handle.node == node).ok_or(Errno::EBADF)
    }

    /// Closes what `node` was opened as under this number.
    pub fn remove(&mut self, number: u64, node: u64) -> Result<(), Errno> {
        self.get(number, node)?;
        self.handles.remove(&number);
        Ok(())
    }

    /// Closes everything.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.handles.shrink_to_fit();
    }
}
