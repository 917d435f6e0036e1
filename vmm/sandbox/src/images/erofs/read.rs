//! Reads an image as Linux would: for tests and fuzz targets, to see what was written.
//!
//! It shares no code with what writes, and takes nothing for granted: an image that contradicts itself is an error
//! that says where.

use std::collections::BTreeMap;

/// A file of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Names.
    pub links: u32,
    /// Its inode.
    pub node: u64,
    /// A device's number, as Linux encodes it.
    pub device: u32,
    /// Contents, or the target of a symbolic link.
    pub contents: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All files of an image by their paths; that of the root directory is empty.
pub fn read(image: &[u8]) -> Result<BTreeMap<Vec<u8>, File>, String> {
    let superblock = at(image, 1024, 128)?;
    let (magic, blocks, meta) = (u32_at(superblock, 0)?, u32_at(superblock, 36)?, u32_at(superblock, 40)?);
    if magic != 0xe0f5_e1e2 || image.len() as u64 != u64::from(blocks) * 4096 {
        return Err("the superblock is wrong".into());
    }
    let reader = Reader { image, meta: u64::from(meta) * 4096 };
    let root = u64::from(u16_at(superblock, 14)?);
    let mut files = BTreeMap::new();
    let mut open = vec![(Vec::new(), root, root)];
    while let Some((path, node, parent)) = open.pop() {
        let (file, kind) = reader.file(node)?;
        if kind == 2 {
            for (name, entry, entry_kind) in reader.names(&file.contents, node, parent)? {
                let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                let (found, kind) = reader.file(entry)?;
                if kind != entry_kind {
                    return Err(format!("node {entry} is {:o}, its directory says {entry_kind}", found.mode));
                }
                open.push((path, entry, node));
            }
        }
        if files.insert(path, file).is_some() {
            return Err("a name is there twice".into());
        }
    }
    let inodes: std::collections::BTreeSet<u64> = files.values().map(|file| file.node).collect();
    match u64_at(superblock, 16)? == inodes.len() as u64 {
        true => Ok(files),
        false => Err("the superblock counts other inodes than there are".into()),
    }
}

struct Reader<'a> {
    image: &'a [u8],
    meta: u64,
}

impl Reader<'_> {
    /// An inode, and the number that directories have for its type.
    fn file(&self, node: u64) -> Result<(File, u8), String> {
        let offset = self.meta + node * 32;
        let inode = at(self.image, offset, 64)?;
        let format = u16_at(inode, 0)?;
        let (count, size, union) = (u64::from(u16_at(inode, 2)?), u64_at(inode, 8)?, u32_at(inode, 16)?);
        let mode = u16_at(inode, 4)?;
        let xattrs_size = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        let behind = offset + 64 + xattrs_size;
        let kind = match mode >> 12 {
            0o10 => 1,
            0o04 => 2,
            0o02 => 3,
            0o06 => 4,
            0o01 => 5,
            0o14 => 6,
            0o12 => 7,
            _ => return Err(format!("node {node} has mode {mode:o}")),
        };
        let contents = match format {
            1 if matches!(kind, 1 | 2 | 7) => at(self.image, u64::from(union) * 4096, size)?.to_vec(),
            1 if size == 0 => Vec::new(),
            5 if behind % 4096 + size <= 4096 => at(self.image, behind, size)?.to_vec(),
            9 => self.chunks(behind, union + 12, size)?,
            _ => return Err(format!("node {node} has format {format} and {size} bytes")),
        };
        let file = File {
            mode,
            uid: u32_at(inode, 24)?,
            gid: u32_at(inode, 28)?,
            mtime: (u64_at(inode, 32)?.cast_signed(), u32_at(inode, 40)?),
            links: u32_at(inode, 44)?,
            node,
            device: if matches!(kind, 3 | 4) { union } else { 0 },
            contents,
            xattrs: xattrs(at(self.image, offset + 64, xattrs_size)?)?,
        };
        Ok((file, kind))
    }

    fn chunks(&self, table: u64, bits: u32, size: u64) -> Result<Vec<u8>, String> {
        let mut contents = Vec::new();
        for chunk in 0..size.div_ceil(1 << bits) {
            let length = (size - (chunk << bits)).min(1 << bits);
            match u32_at(at(self.image, table + 4 * chunk, 4)?, 0)? {
                u32::MAX => contents.extend((0..length).map(|_| 0)),
                block => contents.extend(at(self.image, u64::from(block) * 4096, length)?),
            }
        }
        Ok(contents)
    }

    /// A directory's names but for `.` and `..`, with node numbers and types.
    fn names(&self, contents: &[u8], own: u64, parent: u64) -> Result<Vec<(Vec<u8>, u64, u8)>, String> {
        let mut names = Vec::new();
        for block in contents.chunks(4096) {
            let count = u16_at(block, 8)? / 12;
            for entry in 0..count {
                let from = usize::from(entry) * 12;
                let start = usize::from(u16_at(block, from + 8)?);
                let end = match entry + 1 == count {
                    true => block.len() - block.iter().rev().take_while(|byte| **byte == 0).count(),
                    false => usize::from(u16_at(block, from + 20)?),
                };
                let name = block.get(start..end).ok_or("a name is not in its block")?;
                names.push((name.to_vec(), u64_at(block, from)?, *block.get(from + 10).ok_or("no type")?));
            }
        }
        if !names.is_sorted() || names.iter().any(|(name, ..)| name.is_empty()) {
            return Err("names are not in order".into());
        }
        for (name, node) in [(&b"."[..], own), (b"..", parent)] {
            let found = names.iter().position(|entry| *entry == (name.to_vec(), node, 2));
            names.remove(found.ok_or(format!("node {own} has no '.' or '..' as it must be"))?);
        }
        Ok(names)
    }
}

fn xattrs(mut bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let mut xattrs = BTreeMap::new();
    if !bytes.is_empty() {
        bytes = bytes.get(12..).ok_or("a header of attributes is cut short")?;
    }
    while let [length, namespace, low, high, ..] = *bytes {
        let namespace = match namespace {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => return Err(format!("an attribute is in namespace {other}")),
        };
        let (length, size) = (u64::from(length), u64::from(u16::from_le_bytes([low, high])));
        let name = [namespace.as_bytes(), at(bytes, 4, length)?].concat();
        xattrs.insert(name, at(bytes, 4 + length, size)?.to_vec());
        let next = usize::try_from((4 + length + size).next_multiple_of(4))
            .map_err(|_| "an attribute is too long")?;
        bytes = bytes.get(next..).unwrap_or_default();
    }
    Ok(xattrs)
}

fn at(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8], String> {
    let range = usize::try_from(offset)
        .ok()
        .zip(offset.checked_add(length).and_then(|end| usize::try_from(end).ok()));
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or(format!("{length} bytes are not at {offset}"))
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, String> {
    let bytes = at(bytes, offset as u64, 2)?;
    Ok(u16::from_le_bytes(bytes.try_into().map_err(|_| "two bytes")?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, String> {
    let bytes = at(bytes, offset as u64, 4)?;
    Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| "four bytes")?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, String> {
    let bytes = at(bytes, offset as u64, 8)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "eight bytes")?))
}
