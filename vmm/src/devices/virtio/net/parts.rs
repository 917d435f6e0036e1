//! Packets in guest memory, as readv(2) and writev(2) take them: no copy on the way to the tap and back.
//!
//! A descriptor is read once, checked against the guest's memory, and from then on only its checked form is
//! used; what the guest does to the descriptor table later changes nothing here.

#![allow(unsafe_code, reason = "hands pieces of guest memory to the host's kernel as iovecs")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Most pieces that one list holds; with room for a header and a rest it is what the kernel takes (UIO_MAXIOV).
pub const MOST_PARTS: usize = 1022;

/// What a device does with a chain's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it: the chain may have no writable descriptor.
    Read,
    /// Writes it: the chain may have no readable descriptor.
    Write,
}

/// A chain that cannot be a packet or a buffer: memory that is not there, the wrong direction, broken off, or
/// of too many pieces.
#[derive(Debug, PartialEq, Eq)]
pub struct BadChain;

/// Pieces of guest memory in order.
pub struct Parts<'m> {
    memory: &'m GuestMemoryMmap,
    /// Each lies within a mapping of `memory`, which outlives `self`.
    iovecs: Vec<libc::iovec>,
}

impl<'m> Parts<'m> {
    /// An empty list that holds pieces of `memory`.
    pub fn new(memory: &'m GuestMemoryMmap) -> Self {
        Self { memory, iovecs: Vec::new() }
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.iovecs.len()
    }

    /// How many bytes there are.
    pub fn length(&self) -> usize {
        // Each piece is mapped, and packets that are longer than any were refused when they were added.
        self.iovecs.iter().fold(0, |sum, iovec| sum.saturating_add(iovec.iov_len))
    }

    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.iovecs.clear();
    }

    /// Forgets all pieces but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.iovecs.truncate(count);
    }

    /// Forgets the first `count` pieces.
    pub fn remove_front(&mut self, count: usize) {
        self.iovecs.drain(..count);
    }

    /// Appends the memory of `chain`; gives its length in bytes. A bad chain leaves the list as it was.
    pub fn add(
        &mut self,
        chain: DescriptorChain<&'m GuestMemoryMmap>,
        access: Access,
    ) -> Result<usize, BadChain> {
        let before = self.iovecs.len();
        let added = self.try_add(chain, access);
        if added.is_err() {
            self.iovecs.truncate(before);
        }
        added
    }

    fn try_add(
        &mut self,
        chain: DescriptorChain<&'m GuestMemoryMmap>,
        access: Access,
    ) -> Result<usize, BadChain> {
        let permission = match access {
            Access::Read => Permissions::Read,
            Access::Write => Permissions::Write,
        };
        let (mut length, mut ended) = (0_usize, false);
        for descriptor in chain {
            if descriptor.is_write_only() != (access == Access::Write) {
                return Err(BadChain);
            }
            ended = !descriptor.has_next();
            let count = usize::try_from(descriptor.len()).map_err(|_| BadChain)?;
            let slices = self.memory.get_slices(descriptor.addr(), count, permission);
            for slice in slices.map_err(|_| BadChain)? {
                self.push(&slice.map_err(|_| BadChain)?)?;
            }
            length = length.checked_add(count).ok_or(BadChain)?;
        }
        // A chain that ends where it says that it goes on was broken off: a loop, or an index out of its table.
        if ended { Ok(length) } else { Err(BadChain) }
    }

    fn push(&mut self, slice: &VolatileSlice<'m>) -> Result<(), BadChain> {
        if self.iovecs.len() >= MOST_PARTS {
            return Err(BadChain);
        }
        let iov_base = slice.ptr_guard_mut().as_ptr().cast();
        self.iovecs.push(libc::iovec { iov_base, iov_len: slice.len() });
        Ok(())
    }

    /// Takes the first bytes off the list into `bytes`. Answers false when there are too few.
    pub fn take(&mut self, bytes: &mut [u8]) -> bool {
        if self.copy_out(bytes) < bytes.len() {
            return false;
        }
        let mut left = bytes.len();
        let whole = self.iovecs.iter().take_while(|iovec| {
            let within = iovec.iov_len <= left;
            left -= if within { iovec.iov_len } else { 0 };
            within
        });
        let whole = whole.count();
        self.iovecs.drain(..whole);
        if let Some(first) = self.iovecs.first_mut() {
            first.iov_base = first.iov_base.cast::<u8>().wrapping_add(left).cast();
            first.iov_len -= left;
        }
        true
    }

    /// Copies from the start of the list into `bytes`; gives how many there were.
    pub fn copy_out(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            done += slice.copy_to(bytes.get_mut(done..).unwrap_or_default());
        }
        done
    }

    /// Copies `bytes` to the place `offset` bytes from the start; what lies past the end is left out.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let (mut skip, mut done) = (offset, 0);
        for slice in self.slices() {
            match slice.offset(skip) {
                Ok(slice) => {
                    let rest = bytes.get(done..).unwrap_or_default();
                    let count = rest.len().min(slice.len());
                    slice.copy_from(rest);
                    (skip, done) = (0, done + count);
                }
                Err(_) => skip -= slice.len(),
            }
            if done == bytes.len() {
                return;
            }
        }
    }

    /// Reads one packet from `fd` into the pieces, and what of it does not fit into `rest`; gives its length.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, rest: &mut [u8]) -> io::Result<usize> {
        self.iovecs.push(libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
        let count = iovec_count(&self.iovecs);
        // SAFETY: every iovec is valid for writes during the call: `rest` is borrowed mutably, all others lie
        // in guest memory, of which the host holds no references.
        let length = unsafe { libc::readv(fd.as_raw_fd(), self.iovecs.as_ptr(), count) };
        let result = usize::try_from(length).map_err(|_| io::Error::last_os_error());
        self.iovecs.pop();
        result
    }

    /// Writes `header` and the pieces to `fd` by one call; gives the bytes that it took: all, where it takes packets.
    pub fn write_to(&mut self, fd: BorrowedFd<'_>, header: &[u8]) -> io::Result<usize> {
        let iov_base = header.as_ptr().cast_mut().cast();
        self.iovecs.insert(0, libc::iovec { iov_base, iov_len: header.len() });
        let count = iovec_count(&self.iovecs);
        // SAFETY: every iovec is valid for reads during the call: `header` is borrowed, all others lie in
        // guest memory. The kernel only reads them.
        let length = unsafe { libc::writev(fd.as_raw_fd(), self.iovecs.as_ptr(), count) };
        let result = usize::try_from(length).map_err(|_| io::Error::last_os_error());
        self.iovecs.remove(0);
        result
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'m>> {
        self.iovecs.iter().map(|iovec| {
            // SAFETY: the iovec lies within a mapping of `memory`, which lives for 'm.
            unsafe { VolatileSlice::new(iovec.iov_base.cast(), iovec.iov_len) }
        })
    }
}

fn iovec_count(iovecs: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX)
}
