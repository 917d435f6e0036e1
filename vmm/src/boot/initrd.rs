//! Loading the initial RAM file system.

use std::io;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::NamedFile;

/// Why an initrd cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// Does not fit above the kernel.
    #[error(
        "cannot load initrd '{path}': its {needed} MiB do not fit into the {room} MiB of memory above the kernel; \
         give the VM more memory"
    )]
    Memory {
        /// The initrd's path.
        path: PathBuf,
        /// Its length, rounded up.
        needed: u64,
        /// What is free.
        room: u64,
    },
    /// The host cannot read it.
    #[error("cannot read initrd '{path}'")]
    Read {
        /// The initrd's path.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}

/// Reads `image` to the last whole pages below `end`, above `kernel_end`; gives address and length.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    image: NamedFile,
    kernel_end: u64,
    end: u64,
) -> Result<(u32, u32), InitrdError> {
    let NamedFile { mut file, path, length } = image;
    let read = |source| InitrdError::Read { path: path.clone(), source };
    let address = place(length, kernel_end, end).ok_or_else(|| InitrdError::Memory {
        path: path.clone(),
        needed: length.div_ceil(1 << 20),
        room: end.saturating_sub(kernel_end) >> 20,
    })?;
    let (address, length) = (u32::try_from(address), u32::try_from(length));
    let (Ok(address), Ok(length)) = (address, length) else {
        return Err(read(io::ErrorKind::FileTooLarge.into()));
    };
    let loaded = memory.read_exact_volatile_from(GuestAddress(address.into()), &mut file, length as usize);
    loaded.map_err(|error| read(io::Error::other(error)))?;
    Ok((address, length))
}

/// The last page-aligned address at which `length` bytes lie between `kernel_end` and `end`.
fn place(length: u64, kernel_end: u64, end: u64) -> Option<u64> {
    const PAGE: u64 = 4096;
    let address = end.checked_sub(length)? / PAGE * PAGE;
    (address >= kernel_end).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn the_initrd_ends_in_the_last_page() {
        assert_eq!(place(1, 0x10_0000, 0x20_0000), Some(0x1f_f000));
        assert_eq!(place(0x1000, 0x10_0000, 0x20_0000), Some(0x1f_f000));
    }

    #[test]
    fn what_does_not_fit_above_the_kernel_has_no_place() {
        assert_eq!(place(0x10_0000, 0x10_0000, 0x20_0000), Some(0x10_0000));
        assert_eq!(place(0x10_0001, 0x10_0000, 0x20_0000), None);
        assert_eq!(place(0x30_0000, 0x10_0000, 0x20_0000), None);
    }
}
