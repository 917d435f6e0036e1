//! The structures of erofs as bytes (Linux, `fs/erofs/erofs_fs.h`), and its numbers.

/// Bytes in a block.
pub const BLOCK: u64 = BLOCK_LEN as u64;
/// The same, for what is in memory.
pub const BLOCK_LEN: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u8 = 12;
/// Longest name of a file, in bytes (EROFS_NAME_LEN).
pub const NAME_MAX: usize = 255;
/// Where the superblock is.
pub const SUPERBLOCK_OFFSET: usize = 1024;
/// Bytes of an extended inode.
pub const INODE: u64 = 64;
/// Inodes are counted in slots of this many bytes: a node number is a distance in slots.
pub const SLOT: u64 = 32;
/// A chunk without contents.
pub const NULL_ADDRESS: u32 = u32::MAX;
/// Smallest chunk, in powers of two of bytes.
pub const CHUNK_BITS_MIN: u32 = 16;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes have times of their own.
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// What the superblock says of an image.
pub struct Superblock {
    /// Inodes in the image.
    pub inodes: u64,
    /// Blocks in the image.
    pub blocks: u32,
    /// The first block of the metadata.
    pub meta: u32,
    /// The root directory's node number.
    pub root: u16,
}

impl Superblock {
    /// The image's first block.
    pub fn block(&self) -> Vec<u8> {
        let mut bytes = Bytes::with_capacity(BLOCK_LEN);
        bytes.zeros(SUPERBLOCK_OFFSET);
        bytes.u32(MAGIC);
        // Checksum: none. The kernel looks at it where a flag says that it is there.
        bytes.u32(0);
        bytes.u32(COMPAT_MTIME);
        bytes.u8(BLOCK_BITS);
        // No further superblock slots.
        bytes.u8(0);
        bytes.u16(self.root);
        bytes.u64(self.inodes);
        // The time for inodes without one, its nanoseconds.
        bytes.u64(0);
        bytes.u32(0);
        bytes.u32(self.blocks);
        bytes.u32(self.meta);
        // Shared extended attributes: none, but the kernel wants a place.
        bytes.u32(self.meta);
        // UUID and volume name.
        bytes.zeros(32);
        bytes.u32(INCOMPAT_CHUNKED_FILE);
        bytes.zeros(BLOCK_LEN - bytes.len());
        bytes.into_vec()
    }
}

/// How an inode's contents are found.
#[derive(Clone, Copy)]
pub enum Layout {
    /// In consecutive blocks from this one on.
    Plain(u32),
    /// Behind the inode and its attributes.
    Inline,
    /// By a table behind the inode, a block address for each chunk of `1 << bits` bytes.
    Chunks {
        /// The size of a chunk, a power of two of bytes.
        bits: u32,
    },
    /// There are none: the number of a device, or 0.
    Device(u32),
}

/// An inode as it is written.
pub struct Inode {
    /// How its contents are found.
    pub layout: Layout,
    /// The extended attributes' length, in the format's own count.
    pub xattr_count: u16,
    /// Type and permissions.
    pub mode: u16,
    /// Bytes of contents.
    pub size: u64,
    /// Its number, for 32-bit stat(2).
    pub number: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_ns: u32,
    /// Names.
    pub links: u32,
}

impl Inode {
    /// Appends it.
    pub fn write(&self, bytes: &mut Bytes) {
        let (layout, union): (u16, u32) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Inline => (2, 0),
            Layout::Chunks { bits } => (4, bits - u32::from(BLOCK_BITS)),
            Layout::Device(number) => (0, number),
        };
        // Bit 0: an extended inode.
        bytes.u16(1 | layout << 1);
        bytes.u16(self.xattr_count);
        bytes.u16(self.mode);
        bytes.u16(0);
        bytes.u64(self.size);
        bytes.u32(union);
        bytes.u32(self.number);
        bytes.u32(self.uid);
        bytes.u32(self.gid);
        bytes.u64(self.mtime.cast_unsigned());
        bytes.u32(self.mtime_ns);
        bytes.u32(self.links);
        bytes.zeros(16);
    }
}

/// A growing row of little-endian numbers.
#[derive(Default)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// An empty one, with room.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends `data`.
    pub fn slice(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Appends `count` zero bytes.
    pub fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    /// Appends zero bytes up to a multiple of `unit`.
    pub fn align(&mut self, unit: usize) {
        self.0.resize(self.0.len().next_multiple_of(unit), 0);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}
