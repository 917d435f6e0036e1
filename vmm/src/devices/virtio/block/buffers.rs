//! A request's data as the host's kernel takes it: an iovec over guest memory.
//!
//! The pointers are good while the memory they were made from is mapped; who passes them to the kernel
//! ([`super::file`], [`super::ring`]) holds that memory.

#![allow(unsafe_code, reason = "pointers into guest memory move between threads")]

use libc::iovec;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use super::request::Segment;

/// Entries kept for the next request; what a larger one needed is given back to the host.
const KEPT: usize = 16;

/// Pieces of guest memory, from the first that is not transferred yet.
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

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.iovecs.shrink_to(KEPT);
        self.first = 0;
    }
}
