//! The host's file or block device behind a disk, and what is done to it by one system call after the other.

#![allow(unsafe_code, reason = "ioctls of block devices")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libc::{c_int, off_t};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

/// Zeroes to write where the host's file system has no call for it.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

mod ioctls {
    //! Of linux/fs.h.
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), libc::c_int);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

/// An open disk.
#[derive(Debug)]
pub struct DiskFile {
    /// The file.
    pub file: Arc<File>,
    /// A block device rather than a regular file.
    pub block_device: bool,
}

impl DiskFile {
    /// Whether the host lets nobody write to this block device.
    pub fn write_protected(&self) -> io::Result<bool> {
        let mut answer: c_int = 0;
        // SAFETY: BLKROGET writes one int through the pointer, which is of `answer`.
        unsafe { ioctls::blkroget(self.file.as_raw_fd(), &mut answer) }?;
        Ok(answer != 0)
    }

    /// Whether the file's contents are nowhere but in memory.
    pub fn in_memory(&self) -> bool {
        fstatfs(&self.file).is_ok_and(|statfs| statfs.filesystem_type() == TMPFS_MAGIC)
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Forgets what `range` holds; it may read as anything then.
    pub fn discard(&self, range: &Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if !self.block_device {
            return self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, range);
        }
        let argument = [range.start, length(range)];
        // SAFETY: BLKDISCARD reads two u64 through the pointer, which is of `argument`.
        unsafe { ioctls::blkdiscard(self.file.as_raw_fd(), &argument) }?;
        Ok(())
    }

    /// Fills `range` with zeroes; the host may take its blocks back if `unmap`.
    pub fn write_zeroes(&self, range: &Range<u64>, unmap: bool) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mode = match unmap {
            true => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            false => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        };
        match self.allocate(mode, range) {
            // EINVAL: a block device whose own blocks are larger than the range is aligned to.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                self.write_out_zeroes(range)
            }
            result => result,
        }
    }

    fn write_out_zeroes(&self, range: &Range<u64>) -> io::Result<()> {
        for offset in range.clone().step_by(ZEROES.len()) {
            let left = range.end.saturating_sub(offset);
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
            self.file.write_all_at(ZEROES.get(..now).unwrap_or_default(), offset)?;
        }
        Ok(())
    }

    fn allocate(&self, mode: FallocateFlags, range: &Range<u64>) -> io::Result<()> {
        let offset = off_t::try_from(range.start).map_err(io::Error::other)?;
        let length = off_t::try_from(length(range)).map_err(io::Error::other)?;
        Ok(fallocate(&self.file, mode | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length)?)
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn zeroes_are_written_where_the_file_system_has_no_call_for_them() {
        // tmpfs punches holes, but zeroes no ranges.
        let file = File::from(memfd_create("disk", MFdFlags::empty()).unwrap());
        file.write_all_at(&[1; 256 << 10], 0).unwrap();
        let disk = DiskFile { file: Arc::new(file), block_device: false };
        assert!(disk.in_memory());
        disk.write_zeroes(&(1024..(200 << 10)), false).unwrap();
        let mut bytes = vec![9; 256 << 10];
        disk.file.read_exact_at(&mut bytes, 0).unwrap();
        let (before, rest) = bytes.split_at(1024);
        let (zeroes, behind) = rest.split_at((200 << 10) - 1024);
        assert!(before.iter().all(|byte| *byte == 1));
        assert!(zeroes.iter().all(|byte| *byte == 0));
        assert!(behind.iter().all(|byte| *byte == 1));
    }
}
