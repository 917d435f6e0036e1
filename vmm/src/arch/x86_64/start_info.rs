//! The start info: what PVH hands to the kernel (Xen's public/arch-x86/hvm/start_info.h, version 1).

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;
use super::zero_page::Placed;

/// "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
const MEMORY_RAM: u32 = 1;
const MEMORY_RESERVED: u32 = 2;

/// Writes the start info, with its module list and memory map behind it, to [`layout::START_INFO`].
pub fn write(memory: &GuestMemoryMmap, placed: Placed) -> Result<(), GuestMemoryError> {
    let module_list = layout::START_INFO + size_of::<hvm_start_info>() as u64;
    let memory_map = module_list + size_of::<hvm_modlist_entry>() as u64;
    let map = layout::memory_map(placed.memory);
    let (initrd, initrd_length) = placed.initrd;
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: u32::from(initrd_length > 0),
        modlist_paddr: module_list,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI_TABLES,
        memmap_paddr: memory_map,
        memmap_entries: u32::try_from(map.len()).unwrap_or_default(),
        ..Default::default()
    };
    memory.write_obj(info, GuestAddress(layout::START_INFO))?;
    let module = hvm_modlist_entry { paddr: initrd.into(), size: initrd_length.into(), ..Default::default() };
    memory.write_obj(module, GuestAddress(module_list))?;
    for (at, (addr, size, is_ram)) in (memory_map..).step_by(size_of::<hvm_memmap_table_entry>()).zip(map) {
        let type_ = if is_ram { MEMORY_RAM } else { MEMORY_RESERVED };
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        memory.write_obj(entry, GuestAddress(at))?;
    }
    Ok(())
}
