//! Where the bytes of a disk are: in one file of the host, or in several one behind the other.
//!
//! ```text
//!   disk     0                capacity       0        1 MiB                              capacity
//!            ├────────────────────┤          ├──────────┼──────┬─────┬──────┬─────┬──────┤
//!   extents  file                            partitions  part 1 zeroes part 2 zeroes partitions
//! ```
//!
//! A disk of several files is read-only, and a GPT ([`super::gpt`]) makes a partition of each. What is in none of
//! the files is in one of the device's own, in memory: the GPT, and zeroes, which take no memory.
//!
//! A request sees one medium or none, from its check to its end; which one that is the disk's tray tells ([`super::tray`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::GuestMemoryMmap;

use super::super::buffers::{Buffers, OutsideMemory, Segment};
use super::file::DiskFile;
use super::gpt::{self, ALIGNMENT};
use super::request::{Direction, SECTOR, Transfer};

/// The bytes of a disk.
#[derive(Debug)]
pub struct Medium {
    /// Of one file: that file. Of several: the device's own.
    file: DiskFile,
    /// In the order of the disk, without gaps.
    extents: Vec<Extent>,
    capacity: u64,
    in_memory: bool,
}

/// A stretch of the disk, up to the next.
#[derive(Debug)]
struct Extent {
    start: u64,
    file: Arc<File>,
    /// Where in the file it starts.
    offset: u64,
}

impl Medium {
    /// The whole of one file of `capacity` bytes.
    pub fn whole(file: DiskFile, capacity: u64) -> Self {
        let extents = vec![Extent { start: 0, file: file.file.clone(), offset: 0 }];
        let in_memory = file.in_memory();
        Self { file, extents, capacity, in_memory }
    }

    /// A partition for each of `parts`, files with their lengths in bytes, in their order. `name` makes the
    /// partitions' identifiers differ from those of other disks.
    pub fn partitioned(name: &[u8], parts: &[(DiskFile, u64)]) -> io::Result<Self> {
        let sectors: Vec<u64> = parts.iter().map(|(_, length)| length.div_ceil(SECTOR)).collect();
        let tables = gpt::tables(name, &sectors).ok_or(io::ErrorKind::InvalidInput)?;
        let own = Own::new(&tables)?;
        let mut extents = vec![own.front()];
        for ((part, length), place) in parts.iter().zip(&tables.places) {
            let start = place.start * SECTOR;
            extents.push(Extent { start, file: part.file.clone(), offset: 0 });
            extents.push(own.zeroes(start + length));
        }
        let back = tables.back_start * SECTOR;
        extents.push(own.back(back));
        // A part that fills its place has no zeroes behind it.
        let ends: Vec<u64> = extents.iter().skip(1).map(|extent| extent.start).chain([u64::MAX]).collect();
        let mut ends = ends.into_iter();
        extents.retain(|extent| ends.next().is_some_and(|end| extent.start < end));
        let in_memory = parts.iter().all(|(part, _)| part.in_memory());
        let capacity = back + tables.back.len() as u64;
        Ok(Self { file: DiskFile { file: own.file, block_device: false }, extents, capacity, in_memory })
    }

    /// Bytes of the disk.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether all of it is nowhere but in memory.
    pub fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// What is flushed and, of a disk that can be written to, discarded.
    pub fn file(&self) -> &DiskFile {
        &self.file
    }

    /// The extent with the byte at `offset`, and where it ends.
    fn locate(&self, offset: u64) -> Option<(&Extent, u64)> {
        let next = self.extents.partition_point(|extent| extent.start <= offset);
        let extent = self.extents.get(next.checked_sub(1)?)?;
        let end = self.extents.get(next).map_or(self.capacity, |next| next.start);
        (offset < end).then_some((extent, end))
    }

    /// Carries out all of `transfer` on `segments`, with `flags` of preadv2(2): RWF_NOWAIT for a read that fails
    /// (EAGAIN, EOPNOTSUPP) where it would wait, RWF_DSYNC for a write that is durable when it returns. The length
    /// of the segments is the transfer's. EFAULT when they leave guest memory.
    pub fn transfer(
        &self,
        transfer: Transfer,
        flags: c_int,
        memory: &GuestMemoryMmap,
        segments: &[Segment],
        progress: &mut Progress,
    ) -> io::Result<()> {
        progress.start(transfer.offset, memory, segments).map_err(|OutsideMemory| Errno::EFAULT)?;
        let done = self.move_all(transfer.direction, flags, progress);
        // It holds the file.
        progress.clear();
        done
    }

    fn move_all(&self, direction: Direction, flags: c_int, progress: &mut Progress) -> io::Result<()> {
        while let Some(Piece { file, offset, data }) = progress.piece(self) {
            let done = match direction {
                Direction::Read => data.read_at(file, offset, flags),
                Direction::Write => data.write_at(file, offset, flags),
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The file was cut off after it was opened.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                done => progress.advance(done?),
            }
        }
        Ok(())
    }
}

/// The file of the device's own behind a disk of several files: the front of the disk as far as the first part, as
/// many zeroes, and the disk's back.
struct Own {
    file: Arc<File>,
}

/// The longest stretch of zeroes behind a part is shorter.
const ZEROES: u64 = ALIGNMENT * SECTOR;
/// Where the disk's back is in the file.
const BACK: u64 = 2 * ZEROES;

impl Own {
    fn new(tables: &gpt::Tables) -> io::Result<Self> {
        let file = File::from(memfd_create("rvm-gpt", MFdFlags::MFD_CLOEXEC)?);
        file.write_all_at(&tables.front, 0)?;
        file.write_all_at(&tables.back, BACK)?;
        Ok(Self { file: Arc::new(file) })
    }

    fn at(&self, start: u64, offset: u64) -> Extent {
        Extent { start, file: self.file.clone(), offset }
    }

    fn front(&self) -> Extent {
        self.at(0, 0)
    }

    fn zeroes(&self, start: u64) -> Extent {
        self.at(start, ZEROES)
    }

    fn back(&self, start: u64) -> Extent {
        self.at(start, BACK)
    }
}

/// A transfer on its way: what is left of its data, and the piece of it that is moved now, from or to one file.
#[derive(Debug, Default)]
pub struct Progress {
    piece: Buffers,
    /// Where the piece is moved to or from.
    place: Option<(Arc<File>, u64)>,
    /// What comes behind the piece, and where on the disk that is.
    rest: Buffers,
    offset: u64,
}

/// What is moved now.
pub struct Piece<'a> {
    /// From or to this file,
    pub file: &'a File,
    /// from this place on,
    pub offset: u64,
    /// this memory of the guest.
    pub data: &'a Buffers,
}

impl Progress {
    /// Begins a transfer of `segments` at `offset` of the disk.
    pub fn start(
        &mut self,
        offset: u64,
        memory: &GuestMemoryMmap,
        segments: &[Segment],
    ) -> Result<(), OutsideMemory> {
        self.piece.clear();
        self.offset = offset;
        self.rest.map(memory, segments)
    }

    /// The piece to move next, on `medium`; `None` when all is moved.
    pub fn piece(&mut self, medium: &Medium) -> Option<Piece<'_>> {
        if self.piece.remaining().is_empty() {
            let (extent, end) = medium.locate(self.offset).filter(|_| !self.rest.remaining().is_empty())?;
            let within = self.offset.checked_sub(extent.start)?;
            self.place = Some((extent.file.clone(), extent.offset.checked_add(within)?));
            let moved = self.rest.split_front(end.checked_sub(self.offset)?, &mut self.piece);
            self.offset = self.offset.checked_add(moved)?;
        }
        let (file, offset) = self.place.as_ref()?;
        Some(Piece { file, offset: *offset, data: &self.piece })
    }

    /// Takes the next `bytes` of the piece as moved.
    pub fn advance(&mut self, bytes: usize) {
        self.piece.advance(bytes);
        if let Some((_, offset)) = &mut self.place {
            *offset = offset.saturating_add(bytes as u64);
        }
    }

    /// Whether all is moved.
    pub fn is_done(&self) -> bool {
        self.piece.remaining().is_empty() && self.rest.remaining().is_empty()
    }

    /// Forgets the transfer.
    pub fn clear(&mut self) {
        self.piece.clear();
        self.rest.clear();
        self.place = None;
    }
}
