//! The address map of the guest.
//!
//! ```text
//!  guest-physical memory
//!  0x0000_0000  ┌──────────────────────────┐
//!               │ RAM: boot structures     │ page tables, zero page, start info, command line
//!  0x0009_fc00  ├──────────────────────────┤
//!               │ reserved (legacy)        │ ACPI tables from 0x000e_0000
//!  0x0010_0000  ├──────────────────────────┤
//!               │ RAM: kernel, initrd      │ the initrd ends where low RAM ends
//!               ├──────────────────────────┤ end of memory, or 0xc000_0000
//!               │ hole                     │
//!  0xd000_0000  ├──────────────────────────┤
//!               │ virtio-mmio              │ 4 KiB a device
//!               ├──────────────────────────┤
//!               │ hole                     │ 0xfec0_0000 IOAPIC, 0xfee0_0000 local APIC,
//!               │                          │ 0xfffb_c000 KVM's identity map and TSS
//!  0x1_0000_0000├──────────────────────────┤
//!               │ RAM beyond 3 GiB         │
//!               └──────────────────────────┘
//!
//!  ports (constants of each device)                  interrupt lines (GSI)
//!  0x060, 0x064  i8042 (reset)                       4       COM1
//!  0x3f8..0x3ff  COM1                                5..23   virtio devices, in their order
//!  0x505         pvpanic
//!  0x600, 0x601  ACPI sleep control and status
//!  0x6e0..0x6e3  event port (rvm_config::guest_abi)
//! ```

use rvm_config::MemorySize;

/// Where the low RAM used for boot structures ends: the start of the legacy area.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// GDT of the boot processor.
pub const GDT: u64 = 0x500;
/// PVH start info and its memory map.
pub const START_INFO: u64 = 0x6000;
/// Zero page of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the stack of the boot processor.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables that map the first GiB to itself: PML4, PDPT, PD.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// ACPI tables, the RSDP first: where an operating system looks for it.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the legacy area; kernels are loaded above.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Start of the hole below 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// End of the hole; RAM goes on here.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Registers of the first virtio device; the others follow.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// I/O APIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page that KVM needs on Intel processors.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM needs on Intel processors.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt line of the first virtio device; the others follow.
pub const VIRTIO_GSI: u32 = 5;

/// The ranges of RAM of a machine with this much memory, as start and length in bytes.
pub fn ram(size: MemorySize) -> Vec<(u64, u64)> {
    match size.bytes().checked_sub(HOLE_START) {
        None | Some(0) => vec![(0, size.bytes())],
        Some(beyond) => vec![(0, HOLE_START), (HOLE_END, beyond)],
    }
}

/// Where the low RAM of a machine with this much memory ends.
pub fn low_ram_end(size: MemorySize) -> u64 {
    size.bytes().min(HOLE_START)
}

/// The guest's memory map: start, length and whether it is RAM (else reserved).
pub fn memory_map(size: MemorySize) -> Vec<(u64, u64, bool)> {
    let mut map = vec![(0, LOW_RAM_END, true), (LOW_RAM_END, HIGH_RAM - LOW_RAM_END, false)];
    for (start, length) in ram(size) {
        let start_above_legacy = start.max(HIGH_RAM);
        map.push((start_above_legacy, start + length - start_above_legacy, true));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole() {
        let gib = |gib: u32| MemorySize::from_mib(gib * 1024);
        assert_eq!(ram(gib(3)), [(0, 3 << 30)]);
        assert_eq!(ram(gib(5)), [(0, 3 << 30), (4 << 30, 2 << 30)]);
        assert_eq!(low_ram_end(gib(5)), 3 << 30);
    }

    #[test]
    fn the_memory_map_covers_all_ram_and_does_not_overlap() {
        for mib in [64, 3072, 3073, 8192] {
            let map = memory_map(MemorySize::from_mib(mib));
            let total: u64 = map.iter().map(|(_, length, _)| length).sum();
            assert_eq!(total, u64::from(mib) << 20);
            assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        }
    }
}
