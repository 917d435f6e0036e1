//! A request in a descriptor chain, and the room for its reply (virtio 1.2, section 5.11.6).
//!
//! ```text
//!  device reads: | header | arguments | data of a WRITE |    device writes: | header | answer, or data of a READ |
//! ```
//!
//! Header and arguments are copied out of guest memory once, and bounded. Data is not: it goes between guest
//! memory and the file ([`Transfer`]). The driver may cut both streams into descriptors as it likes.

use std::fs::File;
use std::io;

use libc::c_int;
use nix::errno::Errno;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::buffers::{Buffers, OutsideMemory, Segment, copy_from, copy_to};
use super::wire::{
    Fields, Header, REPLY_HEADER, REQUEST_HEADER, Reply, WRITE_ARGUMENTS, opcode, reply_header,
};

/// Descriptors of the longest chain: as many as the queue has.
const MOST_DESCRIPTORS: usize = super::REQUEST_QUEUE_SIZE as usize;
/// Longest arguments: an extended attribute's value of 64 KiB, with its name.
const LONGEST_ARGUMENTS: usize = (64 << 10) + 4096;

/// The request at hand. Kept from one to the next for its memory.
#[derive(Default)]
pub struct Message {
    header: Header,
    arguments: Vec<u8>,
    /// What the driver sent behind the arguments.
    data: Vec<Segment>,
    /// Where the reply goes.
    room: Vec<Segment>,
    buffers: Buffers,
}

/// A request, taken apart.
pub struct Request<'a> {
    /// What it starts with.
    pub header: Header,
    /// Its arguments.
    pub fields: Fields<'a>,
    /// The data of a READ or a WRITE.
    pub transfer: Transfer<'a>,
}

/// Data between guest memory and a file.
pub struct Transfer<'a> {
    memory: &'a GuestMemoryMmap,
    data: &'a [Segment],
    room: &'a [Segment],
    buffers: &'a mut Buffers,
}

impl Message {
    /// Takes the descriptors of `chain`. False when it is no chain: a loop, a descriptor outside of its table, more
    /// of them than a driver may use, device-readable ones after device-writable ones.
    pub fn take(&mut self, chain: DescriptorChain<&GuestMemoryMmap>) -> bool {
        self.header = Header::default();
        self.data.clear();
        self.room.clear();
        let mut complete = false;
        for (index, descriptor) in chain.enumerate() {
            let write = descriptor.is_write_only();
            if index == MOST_DESCRIPTORS || (!write && !self.room.is_empty()) {
                return false;
            }
            complete = !descriptor.has_next();
            let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
            if segment.length > 0 {
                if write { self.room.push(segment) } else { self.data.push(segment) }
            }
        }
        complete
    }

    /// Copies header and arguments, which are then the request's; EINVAL when they are not all there.
    pub fn request<'a>(&'a mut self, memory: &'a GuestMemoryMmap) -> Result<Request<'a>, Errno> {
        let Self { header, arguments, data, room, buffers } = self;
        let mut bytes = [0; REQUEST_HEADER];
        take_front(memory, data, &mut bytes)?;
        *header = Header::parse(&bytes)?;
        let behind = usize::try_from(header.length).ok().and_then(|all| all.checked_sub(REQUEST_HEADER));
        let length = match header.opcode {
            opcode::WRITE => WRITE_ARGUMENTS,
            _ => behind.ok_or(Errno::EINVAL)?,
        };
        if length > LONGEST_ARGUMENTS {
            return Err(Errno::E2BIG);
        }
        arguments.clear();
        arguments.shrink_to(4096);
        arguments.resize(length, 0);
        take_front(memory, data, arguments)?;
        let transfer = Transfer { memory, data, room, buffers };
        Ok(Request { header: *header, fields: Fields::new(arguments), transfer })
    }

    /// Writes the reply to what was asked: `answer`, or an error. Gives the bytes written; EFAULT when they have no
    /// room, or it lies outside of memory.
    pub fn reply(&self, memory: &GuestMemoryMmap, answer: Result<&Reply, Errno>) -> Result<u32, Errno> {
        let (bytes, length) = match answer {
            Ok(reply) if reply.moved > 0 => (&[][..], Ok(reply.moved)),
            Ok(reply) => (reply.bytes(), Ok(u32::try_from(reply.length()).map_err(|_| Errno::EFAULT)?)),
            Err(errno) => (&[][..], Err(errno)),
        };
        let header = reply_header(self.header.unique, length);
        let fits = |put: Option<u64>, bytes: &[u8]| {
            put.filter(|put| *put == bytes.len() as u64).ok_or(Errno::EFAULT)
        };
        if !bytes.is_empty() {
            fits(copy_to(memory, &behind_header(&self.room), bytes), bytes)?;
        }
        // The header last: it says that the rest is there.
        fits(copy_to(memory, &self.room, &header), &header)?;
        Ok(length.unwrap_or(0).saturating_add(REPLY_HEADER))
    }

    /// Whether the driver has room for a reply at all.
    pub fn wants_reply(&self) -> bool {
        length(&self.room) >= REPLY_HEADER.into()
    }
}

impl Transfer<'_> {
    /// Reads from `offset` of `file` on into the reply, at most `size` bytes and what there is room for; gives the
    /// bytes read: fewer only at the end of the file.
    pub fn read(&mut self, file: &File, offset: u64, size: u32) -> Result<u32, Errno> {
        let room = first(&behind_header(self.room), size);
        self.map(&room)?;
        self.move_all(offset, |buffers, at| buffers.read_at(file, at, 0))
    }

    /// Writes the request's data, `size` bytes, at `offset` of `file`, with these flags of pwritev2(2); gives the
    /// bytes written: fewer only if the host failed after them.
    pub fn write(&mut self, file: &File, offset: u64, size: u32, flags: c_int) -> Result<u32, Errno> {
        let data = first(self.data, size);
        if length(&data) != u64::from(size) {
            return Err(Errno::EINVAL);
        }
        self.map(&data)?;
        self.move_all(offset, |buffers, at| buffers.write_at(file, at, flags))
    }

    fn map(&mut self, segments: &[Segment]) -> Result<(), Errno> {
        self.buffers.map(self.memory, segments).map_err(|OutsideMemory| Errno::EFAULT)
    }

    fn move_all(
        &mut self,
        offset: u64,
        step: impl Fn(&Buffers, u64) -> io::Result<usize>,
    ) -> Result<u32, Errno> {
        let mut moved = 0_u64;
        while !self.buffers.remaining().is_empty() {
            let at = offset.checked_add(moved).ok_or(Errno::EINVAL)?;
            match step(self.buffers, at) {
                Ok(0) => break,
                Ok(now) => {
                    self.buffers.advance(now);
                    moved = moved.saturating_add(now as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if moved == 0 => return Err(error_number(&error)),
                Err(_) => break,
            }
        }
        u32::try_from(moved).map_err(|_| Errno::EIO)
    }
}

/// The host's error as the guest is told it.
pub fn error_number(error: &io::Error) -> Errno {
    // One without a number is of our own making: an offset that the host has no type for.
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}

/// Fills `bytes` from the front of `segments`, which lose them.
fn take_front(memory: &GuestMemoryMmap, segments: &mut Vec<Segment>, bytes: &mut [u8]) -> Result<(), Errno> {
    copy_from(memory, segments, bytes).ok_or(Errno::EINVAL)?;
    let mut skip = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    segments.retain_mut(|segment| {
        *segment = behind(segment, &mut skip);
        segment.length > 0
    });
    Ok(())
}

/// What is left of `segment` behind what is to be skipped, of which less is left then.
fn behind(segment: &Segment, skip: &mut u32) -> Segment {
    let here = (*skip).min(segment.length);
    *skip = skip.saturating_sub(here);
    // Wraps only for a segment that is not in memory anyway.
    let address = GuestAddress(segment.address.0.wrapping_add(here.into()));
    Segment { address, length: segment.length.saturating_sub(here) }
}

/// What is in `room` behind the header of a reply.
fn behind_header(room: &[Segment]) -> Vec<Segment> {
    let mut skip = REPLY_HEADER;
    room.iter().map(|segment| behind(segment, &mut skip)).filter(|segment| segment.length > 0).collect()
}

/// The first `bytes` of `segments`, or all of them.
fn first(segments: &[Segment], bytes: u32) -> Vec<Segment> {
    let mut left = bytes;
    let taken = segments.iter().map(|segment| {
        let length = left.min(segment.length);
        left = left.saturating_sub(length);
        Segment { address: segment.address, length }
    });
    taken.take_while(|segment| segment.length > 0).collect()
}

fn length(segments: &[Segment]) -> u64 {
    segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.length.into()))
}
