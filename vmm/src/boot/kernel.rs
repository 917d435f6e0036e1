//! Loading a kernel: ELF `vmlinux` (System V ABI, chapters 4 and 5) or `bzImage` (Linux boot protocol),
//! recognised by content.
//!
//! The file is the user's, not the guest's, but it may be anything: what is wrong with it is said in the user's
//! words before a loader sees it.

use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{NamedFile, SetupHeader, notes};
use crate::arch::native::layout;
use crate::arch::native::regs::Entry;
use crate::memory::leave_gaps;

/// A kernel in guest memory.
#[derive(Debug)]
pub struct LoadedKernel {
    /// How to enter it.
    pub entry: Entry,
    /// The first address after it.
    pub end: u64,
    /// A bzImage's setup header.
    pub setup_header: Option<SetupHeader>,
}

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither of the formats.
    #[error("cannot boot kernel '{0}': it is no kernel; give the path of an ELF vmlinux or a bzImage")]
    Format(PathBuf),
    /// Made for other processors.
    #[error("cannot boot kernel '{path}': it is for {machine}, this machine is x86-64; build it for x86-64")]
    Architecture {
        /// The kernel's path.
        path: PathBuf,
        /// What it is for.
        machine: String,
    },
    /// Cut short.
    #[error("cannot boot kernel '{0}': the file is truncated; build or copy it again")]
    Truncated(PathBuf),
    /// Does not fit.
    #[error(
        "cannot boot kernel '{path}': it needs memory up to {needed} MiB, the VM has {size} MiB there; give the \
         VM more memory"
    )]
    Memory {
        /// The kernel's path.
        path: PathBuf,
        /// End of the kernel in memory, in MiB, rounded up.
        needed: u64,
        /// The machine's low RAM, in MiB.
        size: u64,
    },
    /// A format that claims what cannot be.
    #[error("cannot boot kernel '{path}': the image is damaged ({reason}); build or copy it again")]
    Damaged {
        /// The kernel's path.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The host cannot read it.
    #[error("cannot read kernel '{path}'")]
    Read {
        /// The kernel's path.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}

/// What the first bytes of a file say it is.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    Elf,
    BzImage,
}

/// Bytes from the start of a file that tell its format: up to the bzImage's magic and version.
const HEAD: usize = 0x238;
/// ELF header: class, data encoding, machine (chapter 4).
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ELFDATA2MSB: u8 = 2;
const EM_X86_64: u16 = 62;
/// Bytes of an ELF program header.
const PROGRAM_HEADER: usize = 56;
/// Offset of the 64-bit entry from the start of a loaded bzImage (boot protocol 2.12).
const BZIMAGE_ENTRY_64: u64 = 0x200;
/// Offset and bit of `xloadflags` that say that the 64-bit entry exists.
const XLOADFLAGS: usize = 0x236;
const XLF_KERNEL_64: u8 = 1;

/// Loads the kernel of `image` at the addresses it asks for.
pub(super) fn load(memory: &GuestMemoryMmap, mut image: NamedFile) -> Result<LoadedKernel, KernelError> {
    let size = image.length;
    let head = read_head(&mut image)?;
    match format(&head, &image.path)? {
        Format::Elf => load_elf(memory, image, size),
        Format::BzImage => load_bzimage(memory, image, size, &head),
    }
}

fn read_head(image: &mut NamedFile) -> Result<Vec<u8>, KernelError> {
    let mut head = Vec::with_capacity(HEAD);
    let read = (&image.file).take(HEAD as u64).read_to_end(&mut head);
    let read = read.and_then(|_| image.file.rewind());
    read.map_err(|source| KernelError::Read { path: image.path.clone(), source })?;
    Ok(head)
}

fn format(head: &[u8], path: &std::path::Path) -> Result<Format, KernelError> {
    if head.starts_with(b"\x7fELF") {
        return check_elf_machine(head, path).map(|()| Format::Elf);
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return match head.get(XLOADFLAGS) {
            Some(flags) if flags & XLF_KERNEL_64 != 0 => Ok(Format::BzImage),
            Some(_) => {
                Err(KernelError::Architecture { path: path.to_owned(), machine: "32-bit x86".to_owned() })
            }
            None => Err(KernelError::Truncated(path.to_owned())),
        };
    }
    // Cut short before the setup header, which a kernel that is an EFI program as well still shows.
    if head.starts_with(b"MZ") && head.len() < 0x206 {
        return Err(KernelError::Truncated(path.to_owned()));
    }
    // The arm64 image header has its magic at 0x38 (Documentation/arch/arm64/booting.rst of Linux).
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Err(KernelError::Architecture { path: path.to_owned(), machine: "arm64".to_owned() });
    }
    Err(KernelError::Format(path.to_owned()))
}

fn check_elf_machine(head: &[u8], path: &std::path::Path) -> Result<(), KernelError> {
    let (Some(&[class, data]), Some(&[low, high])) = (head.get(4..6), head.get(18..20)) else {
        return Err(KernelError::Truncated(path.to_owned()));
    };
    let machine = match data {
        ELFDATA2MSB => u16::from_be_bytes([low, high]),
        _ => u16::from_le_bytes([low, high]),
    };
    let name = match (class, data, machine) {
        (ELFCLASS64, ELFDATA2LSB, EM_X86_64) => return Ok(()),
        (_, _, EM_X86_64) => "the x32 ABI, or no processor there is".to_owned(),
        (_, _, 3) => "32-bit x86".to_owned(),
        (_, _, 21) => "PowerPC".to_owned(),
        (_, _, 22) => "s390".to_owned(),
        (_, _, 40) => "32-bit Arm".to_owned(),
        (_, _, 183) => "arm64".to_owned(),
        (_, _, 243) => "RISC-V".to_owned(),
        (_, _, other) => format!("ELF machine {other}"),
    };
    Err(KernelError::Architecture { path: path.to_owned(), machine: name })
}

fn load_elf(memory: &GuestMemoryMmap, mut image: NamedFile, size: u64) -> Result<LoadedKernel, KernelError> {
    let headers = program_headers(&image)?;
    let segments = check_segments(memory, &image, &headers, size)?;
    leave_gaps(memory, &segments);
    let linux = is_linux(&image, &headers);
    let loaded = Elf::load(memory, None, &mut image.file, Some(GuestAddress(layout::HIGH_RAM)));
    let loaded = loaded.map_err(|error| damaged(&image, &error.to_string()))?;
    if loaded.kernel_end == 0 {
        return Err(damaged(&image, "nothing in it is to be loaded"));
    }
    let entry = match loaded.pvh_boot_cap {
        // Linux looks for Xen when it is entered so: 256 exits, that its own entry does not make.
        PvhBootCapability::PvhEntryPresent(address) if !linux => Entry::Pvh(address.0),
        _ => Entry::Linux64(loaded.kernel_load.0),
    };
    Ok(LoadedKernel { entry, end: loaded.kernel_end, setup_header: None })
}

/// The program headers of an ELF file, one after the other.
fn program_headers(image: &NamedFile) -> Result<Vec<u8>, KernelError> {
    const HEADER: usize = 64;
    let truncated = |_| KernelError::Truncated(image.path.clone());
    let mut header = [0; HEADER];
    image.file.read_exact_at(&mut header, 0).map_err(truncated)?;
    let count = usize::try_from(number(&header, 56, 2)).unwrap_or_default();
    let mut headers = vec![0; count * PROGRAM_HEADER];
    image.file.read_exact_at(&mut headers, number(&header, 32, 8)).map_err(truncated)?;
    Ok(headers)
}

/// Of those headers, the ones of this type.
fn of_type(headers: &[u8], kind: u64) -> impl Iterator<Item = &[u8]> {
    headers.chunks_exact(PROGRAM_HEADER).filter(move |header| number(header, 0, 4) == kind)
}

/// Where in memory the segments go, all of which lie within the file and within memory.
fn check_segments(
    memory: &GuestMemoryMmap,
    image: &NamedFile,
    headers: &[u8],
    size: u64,
) -> Result<Vec<Range<u64>>, KernelError> {
    const PT_LOAD: u64 = 1;
    let mut segments = Vec::new();
    for header in of_type(headers, PT_LOAD) {
        let (offset, address) = (number(header, 8, 8), number(header, 24, 8));
        let (in_file, in_memory) = (number(header, 32, 8), number(header, 40, 8));
        if offset.checked_add(in_file).is_none_or(|end| end > size) {
            return Err(KernelError::Truncated(image.path.clone()));
        }
        let length = in_memory.max(in_file);
        check_fits(memory, &image.path, address, length)?;
        segments.push(address..address.saturating_add(length));
    }
    Ok(segments)
}

/// Whether its notes say that it is Linux. Notes that cannot be read say nothing.
fn is_linux(image: &NamedFile, headers: &[u8]) -> bool {
    const PT_NOTE: u64 = 4;
    // A kernel has a few hundred bytes of them.
    const MOST: u64 = 64 << 10;
    of_type(headers, PT_NOTE).any(|header| {
        let (offset, length) = (number(header, 8, 8), number(header, 32, 8).min(MOST));
        let mut notes = vec![0; usize::try_from(length).unwrap_or_default()];
        image.file.read_exact_at(&mut notes, offset).is_ok() && notes::are_of_linux(&notes)
    })
}

/// The little-endian number of `length` bytes at `at`; the caller's slice holds it.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes.iter().skip(at).take(length).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn check_fits(
    memory: &GuestMemoryMmap,
    path: &std::path::Path,
    address: u64,
    length: u64,
) -> Result<(), KernelError> {
    let end = address.checked_add(length);
    let fits = |end: u64| {
        memory.check_range(GuestAddress(address), usize::try_from(end - address).unwrap_or(usize::MAX))
    };
    match end {
        Some(end) if length == 0 || fits(end) => Ok(()),
        _ => Err(KernelError::Memory {
            path: path.to_owned(),
            needed: address.saturating_add(length).div_ceil(1 << 20),
            size: memory
                .find_region(GuestAddress(0))
                .map_or(0, |region| vm_memory::GuestMemoryRegion::len(region) >> 20),
        }),
    }
}

fn load_bzimage(
    memory: &GuestMemoryMmap,
    mut image: NamedFile,
    size: u64,
    head: &[u8],
) -> Result<LoadedKernel, KernelError> {
    // setup_sects, where 0 means 4; the protected-mode code begins behind the boot sector and these.
    let setup = match number(head, 0x1f1, 1) {
        0 => 5 * 512,
        sectors => (sectors + 1) * 512,
    };
    // syssize is the length of that code in units of 16 bytes.
    let code = number(head, 0x1f4, 4) * 16;
    if setup.saturating_add(code) > size.next_multiple_of(16) {
        return Err(KernelError::Truncated(image.path));
    }
    // All that follows is loaded, a signature behind the code as well.
    check_fits(memory, &image.path, layout::HIGH_RAM, size.saturating_sub(setup))?;
    let loaded = BzImage::load(memory, None, &mut image.file, Some(GuestAddress(layout::HIGH_RAM)));
    let loaded = loaded.map_err(|error| damaged(&image, &error.to_string()))?;
    let header = loaded.setup_header;
    // init_size is what the kernel needs from its preferred address on while it unpacks itself.
    let unpacked = header.map_or(0, |header| header.pref_address.saturating_add(header.init_size.into()));
    if unpacked > 0 {
        check_fits(memory, &image.path, layout::HIGH_RAM, unpacked.saturating_sub(layout::HIGH_RAM))?;
    }
    let entry = Entry::Linux64(loaded.kernel_load.0 + BZIMAGE_ENTRY_64);
    Ok(LoadedKernel { entry, end: loaded.kernel_end.max(unpacked), setup_header: header })
}

/// `reason` as the loader gives it, which says at each level that it is a loader.
fn damaged(image: &NamedFile, reason: &str) -> KernelError {
    let reason = reason.rsplit("Kernel Loader: ").next().unwrap_or_default().to_ascii_lowercase();
    KernelError::Damaged { path: image.path.clone(), reason }
}
