//! Packets in descriptor chains: 44 bytes of header, then data, in whatever pieces the driver cut them.
//!
//! A descriptor is read once and checked against the guest's memory; what the driver does to it afterwards
//! changes nothing here. The header of a packet from the guest is copied before anything in it is looked at.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::packet::{HEADER_SIZE, Header};

/// Most descriptors of a chain. Drivers use one or two, and one for each page of data that they do not copy.
const MOST_DESCRIPTORS: usize = 64;

/// A chain whose descriptors lie in the memory that its buffers lie in.
pub type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// The pieces of one or more chains.
#[derive(Default)]
pub struct Pieces<'m> {
    /// Those of the headers, 44 bytes a chain.
    pub headers: Vec<VolatileSlice<'m>>,
    /// Those of the data.
    pub data: Vec<VolatileSlice<'m>>,
}

/// Which descriptors of a chain count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Those that the device may read: a packet from the guest.
    Read,
    /// Those that it may write: a buffer for a packet to the guest.
    Write,
}

impl<'m> Pieces<'m> {
    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.data.clear();
    }

    /// Appends the pieces of `chain`; gives the bytes after the header. `None`, and nothing appended, when the
    /// chain has no room for a header, lies outside of memory or has too many descriptors.
    pub fn add(&mut self, memory: &'m GuestMemoryMmap, chain: Chain<'m>, access: Access) -> Option<usize> {
        let before = (self.headers.len(), self.data.len());
        let added = self.try_add(memory, chain, access);
        if added.is_none() {
            self.headers.truncate(before.0);
            self.data.truncate(before.1);
        }
        added
    }

    fn try_add(&mut self, memory: &'m GuestMemoryMmap, chain: Chain<'m>, access: Access) -> Option<usize> {
        let (mut header_left, mut length, mut more) = (HEADER_SIZE, 0_usize, true);
        for descriptor in chain.take(MOST_DESCRIPTORS) {
            more = descriptor.has_next();
            if descriptor.is_write_only() != (access == Access::Write) {
                continue;
            }
            let size = usize::try_from(descriptor.len()).ok()?;
            for slice in GuestMemoryBackend::get_slices(memory, descriptor.addr(), size) {
                let slice = slice.ok()?;
                let (header, data) = slice.split_at(header_left.min(slice.len())).ok()?;
                header_left = header_left.checked_sub(header.len())?;
                length = length.checked_add(data.len())?;
                self.headers.extend((!header.is_empty()).then_some(header));
                self.data.extend((!data.is_empty()).then_some(data));
            }
        }
        // A chain that promised another descriptor was broken off: a loop, a bad index, too long.
        (header_left == 0 && !more).then_some(length)
    }

    /// Leaves out the data after the first `length` bytes of what was added since there were `from` pieces.
    pub fn truncate(&mut self, from: usize, length: usize) {
        let (mut left, mut keep) = (length, from);
        for piece in self.data.iter_mut().skip(from) {
            if left == 0 {
                break;
            }
            *piece = piece.subslice(0, left.min(piece.len())).unwrap_or(*piece);
            left = left.saturating_sub(piece.len());
            keep = keep.saturating_add(1);
        }
        self.data.truncate(keep);
    }
}

/// A packet from the guest.
#[derive(Default)]
pub struct Packet<'m> {
    pieces: Pieces<'m>,
}

impl<'m> Packet<'m> {
    /// Takes the packet in `chain`; gives its header. `None` when there is none, or less data than its `len`.
    pub fn read(&mut self, memory: &'m GuestMemoryMmap, chain: Chain<'m>) -> Option<Header> {
        self.pieces.clear();
        let length = self.pieces.add(memory, chain, Access::Read)?;
        let mut bytes = [0; HEADER_SIZE];
        let mut rest = bytes.as_mut_slice();
        for piece in &self.pieces.headers {
            let (here, after) = rest.split_at_mut_checked(piece.len())?;
            piece.copy_to(here);
            rest = after;
        }
        let header = Header::from_bytes(&bytes);
        let announced = usize::try_from(header.len).ok()?;
        self.pieces.truncate(0, announced);
        (announced <= length).then_some(header)
    }

    /// The packet's data, as many bytes as its header says.
    pub fn data(&self) -> &[VolatileSlice<'m>] {
        &self.pieces.data
    }
}
