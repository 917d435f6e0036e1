//! A request's data: pieces of guest memory, and the same as the host's kernel takes it, an iovec.
//!
//! Between a file and the guest data moves without a copy ([`Buffers`]); what the device itself reads or writes
//! is copied ([`copy_from`], [`copy_to`]).

#![allow(unsafe_code, reason = "hands pieces of guest memory to the host's kernel as iovecs")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{c_int, iovec, off_t};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A piece of a request's data in guest memory. Not checked to lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its length in bytes, never zero.
    pub length: u32,
}

/// Entries kept for the next request; what a larger one needed is given back to the host.
const KEPT: usize = 16;

/// Pieces of guest memory, from the first that is not transferred yet.
///
/// The pointers are good while the memory they were made from is mapped. Who passes them to the kernel holds that
/// memory: an activation's is mapped as long as its device runs.
#[derive(Debug, Default)]
pub struct Buffers {
    iovecs: Vec<iovec>,
    /// Entries before this one are transferred.
    first: usize,
}

// SAFETY: the pointers are addresses of shared guest memory, which is bound to no thread; nothing here follows
// them.
unsafe impl Send for Buffers {}

/// A segment does not lie in guest memory.
#[derive(Debug, PartialEq, Eq)]
pub struct OutsideMemory;

impl Buffers {
    /// Takes `segments` of `memory` in place of what was there.
    pub fn map(&mut self, memory: &GuestMemoryMmap, segments: &[Segment]) -> Result<(), OutsideMemory> {
        self.clear();
        for segment in segments {
            // More than one slice only where two regions of guest memory meet.
            for slice in GuestMemoryBackend::get_slices(memory, segment.address, segment.length as usize) {
                let guard = slice.map_err(|_| OutsideMemory)?.ptr_guard_mut();
                self.iovecs.push(iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            }
        }
        Ok(())
    }

    /// What is left to transfer.
    pub fn remaining(&self) -> &[iovec] {
        self.iovecs.get(self.first..).unwrap_or_default()
    }

    /// Takes the next `bytes` as transferred.
    pub fn advance(&mut self, bytes: usize) {
        let mut bytes = bytes;
        while let Some(piece) = self.iovecs.get_mut(self.first) {
            let now = bytes.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(now);
            piece.iov_len = piece.iov_len.saturating_sub(now);
            bytes = bytes.saturating_sub(now);
            if piece.iov_len > 0 {
                return;
            }
            self.first = self.first.saturating_add(1);
        }
    }

    /// Moves what is left, but at most `bytes`, into `front` in the place of what was there; gives how much that is.
    pub fn split_front(&mut self, bytes: u64, front: &mut Self) -> u64 {
        front.clear();
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        for piece in self.remaining() {
            let iov_len = piece.iov_len.min(left);
            if iov_len == 0 {
                break;
            }
            front.iovecs.push(iovec { iov_base: piece.iov_base, iov_len });
            left = left.saturating_sub(iov_len);
        }
        let moved = front.iovecs.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.iov_len));
        self.advance(moved);
        moved as u64
    }

    /// Reads what is left from `offset` of `file` on, by one call with these flags of preadv2(2); gives the bytes
    /// read, 0 at the end of the file.
    pub fn read_at(&self, file: &File, offset: u64, flags: c_int) -> io::Result<usize> {
        let (iovecs, count, offset) = self.arguments(offset)?;
        // SAFETY: `iovecs` holds `count` entries, each of guest memory, which the caller holds mapped over the
        // call. No Rust reference into guest memory exists.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), iovecs.as_ptr(), count, offset, flags) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes what is left at `offset` of `file`, by one call with these flags of pwritev2(2); gives the bytes
    /// written.
    pub fn write_at(&self, file: &File, offset: u64, flags: c_int) -> io::Result<usize> {
        let (iovecs, count, offset) = self.arguments(offset)?;
        // SAFETY: as above; guest memory is only read.
        let written = unsafe { libc::pwritev2(file.as_raw_fd(), iovecs.as_ptr(), count, offset, flags) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn arguments(&self, offset: u64) -> io::Result<(&[iovec], c_int, off_t)> {
        let iovecs = self.remaining();
        let count = c_int::try_from(iovecs.len()).map_err(io::Error::other)?;
        Ok((iovecs, count, off_t::try_from(offset).map_err(io::Error::other)?))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.iovecs.shrink_to(KEPT);
        self.first = 0;
    }
}

/// Fills `bytes` from the start of `segments`.
pub fn copy_from(memory: &GuestMemoryMmap, segments: &[Segment], bytes: &mut [u8]) -> Option<()> {
    let mut rest = bytes;
    for segment in segments {
        let (now, later) = rest.split_at_mut(rest.len().min(segment.length as usize));
        memory.read_slice(now, segment.address).ok()?;
        rest = later;
    }
    rest.is_empty().then_some(())
}

/// Puts as much of `bytes` into `segments` as they hold; gives the number of bytes.
pub fn copy_to(memory: &GuestMemoryMmap, segments: &[Segment], bytes: &[u8]) -> Option<u64> {
    let mut rest = bytes;
    for segment in segments {
        let (now, later) = rest.split_at(rest.len().min(segment.length as usize));
        memory.write_slice(now, segment.address).ok()?;
        rest = later;
    }
    Some((bytes.len().saturating_sub(rest.len())) as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use vm_memory::GuestAddress;

    use crate::devices::virtio::testing::Random;

    use super::*;

    /// Two regions that meet at 64 KiB, a hole, and a third.
    fn memory() -> GuestMemoryMmap {
        let regions = [(0, 0x1_0000), (0x1_0000, 0x8000), (0x2_0000, 0x1_0000)];
        GuestMemoryMmap::from_ranges(&regions.map(|(start, length)| (GuestAddress(start), length))).unwrap()
    }

    /// The address of each byte that `buffers` has left.
    fn bytes(buffers: &Buffers) -> Vec<usize> {
        let pieces = buffers.remaining().iter();
        pieces.flat_map(|piece| (0..piece.iov_len).map(|at| piece.iov_base.addr() + at)).collect()
    }

    /// The address of each byte of `segments`, taken one by one. `None` when one is not in memory.
    fn addresses(memory: &GuestMemoryMmap, segments: &[Segment]) -> Option<Vec<usize>> {
        let all = segments.iter().flat_map(|segment| {
            (0..u64::from(segment.length)).map(|at| segment.address.0.checked_add(at).map(GuestAddress))
        });
        all.map(|at| Some(GuestMemoryBackend::get_host_address(memory, at?).ok()?.addr())).collect()
    }

    #[test]
    fn buffers_are_every_byte_of_the_segments_in_order_however_far_transferred() {
        let memory = memory();
        let mut buffers = Buffers::default();
        let mut random = Random::new(1);
        let (mut mapped, mut refused) = (0, 0);
        for _ in 0..2000 {
            let mut segments = Vec::new();
            let edges = [0, 0x1_0000, 0x1_8000, 0x2_0000, 0x3_0000, u64::MAX];
            for _ in 0..random.below(20) {
                let edge = edges[usize::try_from(random.below(6)).unwrap()];
                let start = edge.saturating_add(random.below(0x400)).saturating_sub(random.below(0x600));
                let length = 1 + u32::try_from(random.below(0x300)).unwrap();
                let segment = Segment { address: GuestAddress(start), length };
                // Few that leave memory, so that some requests have none.
                if random.below(8) == 0 || addresses(&memory, &[segment]).is_some() {
                    segments.push(segment);
                }
            }
            let Some(expected) = addresses(&memory, &segments) else {
                assert_eq!(buffers.map(&memory, &segments), Err(OutsideMemory));
                refused += 1;
                continue;
            };
            assert_eq!(buffers.map(&memory, &segments), Ok(()));
            mapped += 1;
            let mut rest = expected.as_slice();
            while !rest.is_empty() {
                assert_eq!(bytes(&buffers), rest);
                let now = 1 + usize::try_from(random.below(rest.len() as u64)).unwrap();
                buffers.advance(now);
                rest = &rest[now..];
            }
            assert!(buffers.remaining().is_empty());
        }
        assert!(mapped > 100 && refused > 100, "{mapped} mapped, {refused} refused");
    }

    #[test]
    fn a_front_and_the_rest_are_the_whole() {
        let memory = memory();
        let segments = [(0x100, 0x30), (0xfff0, 0x20), (0x2_0000, 0x200)]
            .map(|(start, length)| Segment { address: GuestAddress(start), length });
        let whole = addresses(&memory, &segments).unwrap();
        for length in [0, 1, 0x30, 0x31, 0x40, 0x50, 0x100, whole.len(), whole.len() + 1] {
            let (mut buffers, mut front) = (Buffers::default(), Buffers::default());
            buffers.map(&memory, &segments).unwrap();
            front.map(&memory, &segments).unwrap();
            let moved = usize::try_from(buffers.split_front(length as u64, &mut front)).unwrap();
            assert_eq!(moved, length.min(whole.len()));
            assert_eq!((bytes(&front), bytes(&buffers)), (whole[..moved].to_vec(), whole[moved..].to_vec()));
        }
    }

    #[test]
    fn a_large_request_leaves_little_behind() {
        let mut buffers = Buffers::default();
        let segment = Segment { address: GuestAddress(0), length: 1 };
        buffers.map(&memory(), &[segment; 254]).unwrap();
        buffers.clear();
        assert!(buffers.iovecs.capacity() <= KEPT);
    }
}
