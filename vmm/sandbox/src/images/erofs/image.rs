//! The end of an image: directories, inodes, the superblock.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use super::contents::{Contents, ContentsWriter};
use super::directory;
use super::format::{self, BLOCK, Bytes, INODE, Layout, SLOT, Superblock};
use super::tree::{InodeId, Node, Tree};

/// Types and their bits in a mode, with the number that directories have for them.
const DIRECTORY: (u16, u8) = (0o040_000, 2);
const FILE: (u16, u8) = (0o100_000, 1);
const SYMLINK: (u16, u8) = (0o120_000, 7);
const CHARACTER: (u16, u8) = (0o020_000, 3);
const BLOCK_DEVICE: (u16, u8) = (0o060_000, 4);
const FIFO: (u16, u8) = (0o010_000, 5);
const SOCKET: (u16, u8) = (0o140_000, 6);

/// An inode with its place.
struct Placed {
    id: InodeId,
    links: u32,
    /// Bytes from the start of the metadata.
    offset: u64,
    /// Bytes of contents.
    size: u64,
    layout: Layout,
}

/// Writes what is left of an image: `tree`, whose contents `writer` has. Returns the image's file.
///
/// # Errors
///
/// The files' own, and [`io::ErrorKind::FileTooLarge`] above 16 TiB.
pub fn write<W: Write + Seek, S: Read + Write + Seek>(
    tree: &Tree,
    mut writer: ContentsWriter<W, S>,
) -> io::Result<W> {
    let (placed, meta, meta_bytes) = place(tree, writer.next)?;
    let blocks = meta_bytes.div_ceil(BLOCK) + u64::from(meta);
    let blocks = u32::try_from(blocks).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut numbers = vec![0_u64; tree.inodes()];
    for inode in &placed {
        numbers[inode.id.index()] = inode.offset / SLOT;
    }
    let number = |id: InodeId| (numbers[id.index()], kind(tree.node(id)).1);

    for inode in placed.iter().filter(|inode| matches!(inode.layout, Layout::Plain(_))) {
        match tree.node(inode.id) {
            Node::Directory { .. } => {
                writer.write_bytes(&directory::Blocks::of(tree, inode.id).bytes(number))?
            }
            Node::Symlink(target) => writer.write_bytes(target)?,
            _ => {}
        }
    }
    let ContentsWriter { mut image, mut spool, .. } = writer;
    spool.seek(SeekFrom::Start(0))?;
    let mut small = BufReader::new(spool);
    let mut small_at = 0;
    let mut pending = Bytes::default();
    let mut at = 0;
    for inode in &placed {
        pending.zeros(usize::try_from(inode.offset - at).map_err(io::Error::other)?);
        let before = pending.len();
        write_inode(tree, inode, &mut pending);
        match (tree.node(inode.id), inode.layout) {
            (Node::Directory { .. }, Layout::Inline) => {
                pending.slice(&directory::Blocks::of(tree, inode.id).bytes(number));
            }
            (Node::Symlink(target), Layout::Inline) => pending.slice(target),
            (Node::File(Contents::Small { offset, size }), _) => {
                // Mostly forwards: small contents were spooled in the order of the inodes.
                small.seek_relative(offset.cast_signed() - small_at)?;
                let mut contents = vec![0; usize::try_from(*size).map_err(io::Error::other)?];
                small.read_exact(&mut contents)?;
                pending.slice(&contents);
                small_at = (offset + size).cast_signed();
            }
            (Node::File(Contents::Chunks { table, .. }), _) => {
                table.iter().for_each(|block| pending.u32(*block))
            }
            _ => {}
        }
        at = inode.offset + (pending.len() - before) as u64;
        if pending.len() >= 1 << 20 {
            image.write_all(&std::mem::take(&mut pending).into_vec())?;
        }
    }
    pending.zeros(usize::try_from(meta_bytes.next_multiple_of(BLOCK) - at).map_err(io::Error::other)?);
    image.write_all(&pending.into_vec())?;

    let root = u16::try_from(numbers[InodeId::ROOT.index()]).map_err(io::Error::other)?;
    let superblock = Superblock { inodes: placed.len() as u64, blocks, meta, root };
    image.seek(SeekFrom::Start(0))?;
    image.write_all(&superblock.block())?;
    image.flush()?;
    Ok(image)
}

/// Gives each inode its place, and each large directory and symbolic link its blocks from `next` on. With that, the first block of the
/// metadata and its length in bytes.
fn place(tree: &Tree, mut next: u32) -> io::Result<(Vec<Placed>, u32, u64)> {
    // Node number 0 is left out: programs take a file with it for a deleted one.
    let mut offset = INODE;
    let mut placed = Vec::new();
    for (id, links) in tree.reachable() {
        let inode = tree.inode(id);
        let head = INODE + inode.attributes.xattrs.size() as u64;
        let size = size(tree, id);
        let layout = match &inode.node {
            Node::Directory { .. } | Node::Symlink(_) if head + size <= BLOCK => Layout::Inline,
            Node::Directory { .. } | Node::Symlink(_) => {
                let first = next;
                let blocks = u32::try_from(size.div_ceil(BLOCK)).map_err(|_| io::ErrorKind::FileTooLarge)?;
                next = next.checked_add(blocks).ok_or(io::ErrorKind::FileTooLarge)?;
                Layout::Plain(first)
            }
            Node::File(contents) => layout(contents),
            Node::Character(device) | Node::Block(device) => Layout::Device(device.encode()),
            Node::Fifo | Node::Socket => Layout::Device(0),
        };
        let behind = match (layout, &inode.node) {
            (Layout::Inline, _) => size,
            (_, Node::File(Contents::Chunks { table, .. })) => 4 * table.len() as u64,
            _ => 0,
        };
        // Inline contents are in one block, with all of their inode.
        if matches!(layout, Layout::Inline) && offset % BLOCK + head + behind > BLOCK {
            offset = offset.next_multiple_of(BLOCK);
        }
        placed.push(Placed { id, links, offset, size, layout });
        // On multiples of its size an inode is never in two blocks.
        offset = (offset + head + behind).next_multiple_of(INODE);
    }
    Ok((placed, next, offset))
}

/// Bytes of an inode's contents.
fn size(tree: &Tree, id: InodeId) -> u64 {
    match tree.node(id) {
        Node::Directory { .. } => directory::Blocks::of(tree, id).size(),
        Node::Symlink(target) => target.len() as u64,
        Node::File(contents) => contents.size(),
        Node::Character(_) | Node::Block(_) | Node::Fifo | Node::Socket => 0,
    }
}

fn layout(contents: &Contents) -> Layout {
    match contents {
        Contents::Empty => Layout::Plain(0),
        Contents::Small { .. } => Layout::Inline,
        Contents::Blocks { first, .. } => Layout::Plain(*first),
        Contents::Chunks { bits, .. } => Layout::Chunks { bits: *bits },
    }
}

fn write_inode(tree: &Tree, placed: &Placed, bytes: &mut Bytes) {
    let inode = tree.inode(placed.id);
    let attributes = &inode.attributes;
    let number = u32::try_from(placed.id.index() + 1).unwrap_or(u32::MAX);
    format::Inode {
        layout: placed.layout,
        xattr_count: attributes.xattrs.count(),
        mode: kind(&inode.node).0 | attributes.permissions & 0o7777,
        size: placed.size,
        number,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime,
        mtime_ns: attributes.mtime_ns,
        links: placed.links,
    }
    .write(bytes);
    attributes.xattrs.write(bytes);
}

fn kind(node: &Node) -> (u16, u8) {
    match node {
        Node::Directory { .. } => DIRECTORY,
        Node::File(_) => FILE,
        Node::Symlink(_) => SYMLINK,
        Node::Character(_) => CHARACTER,
        Node::Block(_) => BLOCK_DEVICE,
        Node::Fifo => FIFO,
        Node::Socket => SOCKET,
    }
}
