//! Contents of files: written to the image as they come.
//!
//! Small contents, which will stand behind their inode, wait in a second file (the spool) until inodes are written.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::format::{BLOCK, BLOCK_LEN, CHUNK_BITS_MIN, INODE, NULL_ADDRESS};

/// At most this many chunks in a file's table, unless chunks of 64 KiB make fewer.
const CHUNKS_MAX: u64 = 1 << 16;

/// Where an inode's contents are.
#[derive(Debug)]
pub enum Contents {
    /// Nowhere: there are none.
    Empty,
    /// In the spool.
    Small {
        /// From this byte on.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// In consecutive blocks.
    Blocks {
        /// The first.
        first: u32,
        /// Bytes.
        size: u64,
    },
    /// In pieces, with holes.
    Chunks {
        /// A block address for each piece.
        table: Vec<u32>,
        /// The size of a piece, a power of two of bytes.
        bits: u32,
        /// Bytes.
        size: u64,
    },
}

impl Contents {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Small { size, .. } | Self::Blocks { size, .. } | Self::Chunks { size, .. } => *size,
        }
    }
}

/// Writes contents to an image (`W`) and its spool (`S`).
pub struct ContentsWriter<W, S> {
    pub(super) image: W,
    pub(super) spool: S,
    /// The next free block of the image.
    pub(super) next: u32,
    spooled: u64,
    buffer: Vec<u8>,
}

impl<W: Write + Seek, S: Read + Write + Seek> ContentsWriter<W, S> {
    /// Starts an image; both files are empty.
    pub fn new(mut image: W, spool: S) -> io::Result<Self> {
        // The first block is the superblock's.
        image.seek(SeekFrom::Start(BLOCK))?;
        Ok(Self { image, spool, next: 1, spooled: 0, buffer: Vec::new() })
    }

    /// Reads `size` bytes of `data` for an inode with `xattrs` bytes of extended attributes. An end of `data` before
    /// that is an error.
    pub fn write(&mut self, data: &mut impl Read, size: u64, xattrs: usize) -> io::Result<Contents> {
        if size == 0 {
            return Ok(Contents::Empty);
        }
        if INODE + xattrs as u64 + size <= BLOCK {
            self.write_small(data, size)
        } else {
            self.write_large(data, size)
        }
    }

    fn write_small(&mut self, data: &mut impl Read, size: u64) -> io::Result<Contents> {
        self.fill(data, size)?;
        self.spool.write_all(&self.buffer)?;
        let offset = self.spooled;
        self.spooled += size;
        Ok(Contents::Small { offset, size })
    }

    fn write_large(&mut self, data: &mut impl Read, size: u64) -> io::Result<Contents> {
        let first = self.next;
        let bits = chunk_bits(size);
        let chunk = 1_u64 << bits;
        let mut table = Vec::new();
        let mut left = size;
        while left > 0 {
            self.fill(data, chunk.min(left))?;
            left -= chunk.min(left);
            let hole = self.buffer.iter().all(|byte| *byte == 0);
            table.push(if hole { NULL_ADDRESS } else { self.next });
            if !hole {
                self.write_blocks()?;
            }
        }
        match table.contains(&NULL_ADDRESS) {
            true => Ok(Contents::Chunks { table, bits, size }),
            false => Ok(Contents::Blocks { first, size }),
        }
    }

    /// Reads exactly `size` bytes into the buffer.
    fn fill(&mut self, data: &mut impl Read, size: u64) -> io::Result<()> {
        self.buffer.clear();
        match data.take(size).read_to_end(&mut self.buffer)? as u64 {
            read if read == size => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes the buffer from the next block's start on.
    pub(super) fn write_blocks(&mut self) -> io::Result<()> {
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK_LEN), 0);
        self.image.write_all(&self.buffer)?;
        let blocks = self.buffer.len() as u64 / BLOCK;
        let next = u32::try_from(blocks).ok().and_then(|blocks| self.next.checked_add(blocks));
        // Blocks have numbers of 32 bits, and the last is NULL_ADDRESS.
        self.next = next.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(())
    }

    /// Writes `data` from the next block's start on.
    pub(super) fn write_bytes(&mut self, data: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(data);
        self.write_blocks()
    }
}

/// The size of a file's chunks: small ones find more holes, large ones have a shorter table.
fn chunk_bits(size: u64) -> u32 {
    let wanted = size.div_ceil(CHUNKS_MAX).next_power_of_two().trailing_zeros();
    wanted.max(CHUNK_BITS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_with_the_file() {
        for (size, bits) in [(1, 16), (1 << 32, 16), ((1 << 32) + 1, 17), (1 << 40, 24)] {
            assert_eq!(chunk_bits(size), bits, "{size}");
        }
    }
}
