//! The zero page: what the Linux boot protocol hands to the kernel (Documentation/arch/x86/boot.rst and
//! zero-page.rst of Linux).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use rvm_config::MemorySize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// What the VMM placed for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Size of the machine's memory.
    pub memory: MemorySize,
    /// The initrd's address and length in bytes; zero length for none.
    pub initrd: (u32, u32),
    /// Length of the command line at [`layout::CMDLINE`], without the closing zero.
    pub cmdline_length: u32,
}

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// Marks a setup header.
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The alignment that a kernel without a setup header can be thought to want.
const KERNEL_ALIGNMENT: u32 = 0x20_0000;

/// Writes the zero page to [`layout::ZERO_PAGE`]. `header` is a bzImage's own; an ELF kernel has none.
pub fn write(
    memory: &GuestMemoryMmap,
    header: Option<setup_header>,
    placed: Placed,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            header: HEADER_MAGIC,
            boot_flag: 0xaa55,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        }),
        acpi_rsdp_addr: layout::ACPI_TABLES,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = placed.initrd;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).unwrap_or_default();
    params.hdr.cmdline_size = placed.cmdline_length;
    let map = layout::memory_map(placed.memory);
    for (entry, (addr, size, is_ram)) in params.e820_table.iter_mut().zip(&map) {
        let kind = if *is_ram { E820_RAM } else { E820_RESERVED };
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: kind };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
}
