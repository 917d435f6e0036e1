//! What a driver asks for (virtio 1.2, section 5.2.6): one descriptor chain, parsed once.
//!
//! ```text
//!  device reads: | type u32 | reserved u32 | sector u64 | data ... |     device writes: | data ... | status u8 |
//! ```
//!
//! The driver may cut these two streams into descriptors as it likes (section 2.7.4.2). The header is copied
//! out of guest memory once, and the checks and the work use that copy.

use std::ops::Range;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::super::buffers::{Segment, copy_from};
use super::config::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, SEG_MAX};

/// Bytes of a sector, the unit of the protocol whatever the disk's blocks are.
pub const SECTOR: u64 = 512;
/// Bytes of the header.
const HEADER: usize = 16;
/// Bytes of a discard or write-zeroes range. One is taken a request ([`super::config`]).
const RANGE: usize = 16;
/// Descriptors of the longest chain that a driver may make: the data, the header and the status.
const MOST_DESCRIPTORS: usize = SEG_MAX as usize + 2;

/// The answer to a request, its last byte (`VIRTIO_BLK_S_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The request is wrong, or the host could not do it.
    IoError = 1,
    /// The device does not do such things.
    Unsupported = 2,
}

/// A request and where its answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The chain's first descriptor, by which it is put into the used ring.
    pub head: u16,
    /// Where the status byte goes: in guest memory.
    pub status: GuestAddress,
    /// Bytes of data that the driver has room for.
    pub room: u64,
    /// What to do; the data is in the segments filled beside it.
    pub work: Work,
}

/// What to do. Byte ranges lie within the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Read from the disk into the segments, or write them to it.
    Transfer(Transfer),
    /// Make what was written durable.
    Flush,
    /// Forget what the range holds.
    Discard(Range<u64>),
    /// Fill the range with zeroes.
    WriteZeroes {
        /// The bytes of the disk.
        range: Range<u64>,
        /// Whether the range may be given back to the host's file system.
        unmap: bool,
    },
    /// Put the serial number into the segments.
    GetId,
    /// Nothing: answer this.
    Refuse(Status),
}

impl Work {
    /// Whether the host may be long about it: better not waited for.
    pub fn takes_time(&self) -> bool {
        matches!(self, Self::Transfer(Transfer { length: 1.., .. }) | Self::Flush)
    }

    /// Bytes that move between disk and guest.
    pub fn bytes(&self) -> u64 {
        self.bytes_read().saturating_add(self.bytes_written())
    }

    /// Bytes that a read moves to the guest.
    pub fn bytes_read(&self) -> u64 {
        match self {
            Self::Transfer(Transfer { direction: Direction::Read, length, .. }) => *length,
            _ => 0,
        }
    }

    /// Bytes that a write moves to the disk.
    pub fn bytes_written(&self) -> u64 {
        match self {
            Self::Transfer(Transfer { direction: Direction::Write, length, .. }) => *length,
            _ => 0,
        }
    }
}

/// A read or a write of the segments at a place of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which of both.
    pub direction: Direction,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// Where data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write,
}

/// What a disk lets its driver do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the disk.
    pub capacity: u64,
    /// Refuse everything that changes the disk.
    pub read_only: bool,
}

/// Parses `chain`, whose data goes to `segments`. `None` when it holds no status byte to answer in: it is no
/// chain (a loop, a descriptor outside of its table, more descriptors than the driver may use, device-readable
/// ones after device-writable ones), or the device may write none of it.
pub fn parse(
    chain: DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
    limits: &Limits,
    segments: &mut Vec<Segment>,
) -> Option<Request> {
    segments.clear();
    let head = chain.head_index();
    let mut header = Header::default();
    let (mut data, mut room) = (0_u64, 0_u64);
    let mut complete = false;
    for (index, descriptor) in chain.enumerate() {
        if index == MOST_DESCRIPTORS || (room > 0 && !descriptor.is_write_only()) {
            return None;
        }
        complete = !descriptor.has_next();
        let mut segment = Segment { address: descriptor.addr(), length: descriptor.len() };
        if descriptor.is_write_only() {
            room = room.checked_add(segment.length.into())?;
        } else {
            header.take(memory, &mut segment);
            data = data.checked_add(segment.length.into())?;
        }
        if segment.length > 0 {
            segments.push(segment);
        }
    }
    if !complete || room == 0 {
        return None;
    }
    let status = take_status(segments)?;
    let room = room.checked_sub(1)?;
    if !memory.check_range(status, 1, Permissions::Write) {
        return None;
    }
    let read = |range: &mut [u8; RANGE]| copy_from(memory, segments, range);
    let work = header.work(limits, data, room, read).unwrap_or_else(Work::Refuse);
    Some(Request { head, status, room, work })
}

/// Takes the status byte off the end of what the device may write.
fn take_status(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    let last = segments.last_mut()?;
    last.length = last.length.checked_sub(1)?;
    let status = last.address.0.checked_add(last.length.into())?;
    if last.length == 0 {
        segments.pop();
    }
    Some(GuestAddress(status))
}

/// The header as far as it was read.
#[derive(Default)]
struct Header {
    bytes: [u8; HEADER],
    filled: usize,
    /// A part of it lies outside of guest memory.
    lost: bool,
}

impl Header {
    /// Moves what the header still misses out of `segment`, which is left with the rest.
    fn take(&mut self, memory: &GuestMemoryMmap, segment: &mut Segment) {
        let missing = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let taken = missing.len().min(segment.length as usize);
        let Some(wanted) = missing.get_mut(..taken).filter(|wanted| !wanted.is_empty()) else {
            return;
        };
        self.lost |= memory.read_slice(wanted, segment.address).is_err();
        self.filled = self.filled.saturating_add(taken);
        // `taken` is at most the segment's length, a u32.
        segment.length = segment.length.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        // Wraps only for a header that was lost.
        segment.address = GuestAddress(segment.address.0.wrapping_add(taken as u64));
    }

    /// What the header asks for, given `data` bytes from the driver and `room` bytes for it. `read` copies the
    /// data of a request that is no transfer.
    fn work(
        &self,
        limits: &Limits,
        data: u64,
        room: u64,
        read: impl FnOnce(&mut [u8; RANGE]) -> Option<()>,
    ) -> Result<Work, Status> {
        if self.filled != HEADER || self.lost {
            return Err(Status::IoError);
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = self.bytes;
        let sector = u64::from_le_bytes(sector);
        let may_write = if limits.read_only { Err(Status::IoError) } else { Ok(()) };
        let transfer = |direction, length: u64| {
            let bytes = limits.bytes(sector, length / SECTOR)?;
            let transfer = Transfer { direction, offset: bytes.start, length };
            if length.is_multiple_of(SECTOR) { Ok(Work::Transfer(transfer)) } else { Err(Status::IoError) }
        };
        match u32::from_le_bytes([k0, k1, k2, k3]) {
            VIRTIO_BLK_T_IN if data == 0 => transfer(Direction::Read, room),
            VIRTIO_BLK_T_OUT if room == 0 => may_write.and_then(|()| transfer(Direction::Write, data)),
            VIRTIO_BLK_T_FLUSH => Ok(Work::Flush),
            VIRTIO_BLK_T_GET_ID if data == 0 => Ok(Work::GetId),
            kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES)
                if room == 0 && data == RANGE as u64 =>
            {
                may_write?;
                let mut range = [0; RANGE];
                read(&mut range).ok_or(Status::IoError)?;
                limits.range_work(kind, range)
            }
            VIRTIO_BLK_T_IN
            | VIRTIO_BLK_T_OUT
            | VIRTIO_BLK_T_GET_ID
            | VIRTIO_BLK_T_DISCARD
            | VIRTIO_BLK_T_WRITE_ZEROES => Err(Status::IoError),
            _ => Err(Status::Unsupported),
        }
    }
}

impl Limits {
    /// The bytes of `sectors` from `sector` on, if they are on the disk.
    fn bytes(&self, sector: u64, sectors: u64) -> Result<Range<u64>, Status> {
        let start = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
        let length = sectors.checked_mul(SECTOR).ok_or(Status::IoError)?;
        match start.checked_add(length) {
            Some(end) if end <= self.capacity => Ok(start..end),
            _ => Err(Status::IoError),
        }
    }

    /// A discard or a write-zeroes: `sector u64 | sectors u32 | flags u32`.
    fn range_work(&self, kind: u32, range: [u8; RANGE]) -> Result<Work, Status> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let (most, known_flags) = match kind {
            VIRTIO_BLK_T_DISCARD => (MAX_DISCARD_SECTORS, 0),
            _ => (MAX_WRITE_ZEROES_SECTORS, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        };
        let flags = u32::from_le_bytes(flags);
        if flags & !known_flags != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > most {
            return Err(Status::IoError);
        }
        let range = self.bytes(sector, sectors.into())?;
        match kind {
            VIRTIO_BLK_T_DISCARD => Ok(Work::Discard(range)),
            _ => Ok(Work::WriteZeroes { range, unmap: flags != 0 }),
        }
    }
}
