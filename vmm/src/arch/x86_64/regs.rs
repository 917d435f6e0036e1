//! The boot processor at the first instruction, by the two ways into a kernel.
//!
//! - 64-bit entry (Linux boot protocol, section "64-bit boot protocol"): long mode, paging with the first GiB
//!   mapped to itself, flat segments, RSI at the zero page.
//! - PVH (Xen's x86/HVM direct boot ABI): 32-bit protected mode without paging, EBX at the start info.
//!
//! The other processors wait for the boot processor to start them.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At this address in long mode, with a zero page.
    Linux64(u64),
    /// At this address in protected mode, with a start info.
    Pvh(u64),
}

/// Why the state cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum RegsError {
    /// KVM refused it.
    #[error("KVM cannot {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// KVM does not know a model-specific register that every processor has.
    #[error("KVM does not take model-specific register {0:#x}")]
    Msr(u32),
    /// The boot structures do not fit into memory.
    #[error("cannot write page tables and segments to guest memory")]
    Memory(#[from] GuestMemoryError),
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Present and writable, in a page table entry.
const TABLE: u64 = 3;
/// The same for a 2 MiB page.
const LARGE_PAGE: u64 = 0x83;
/// RFLAGS with nothing but the bit that is always set.
const RFLAGS_RESERVED: u64 = 2;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, write-back unless one says otherwise: without it all memory is uncached until the kernel sets them.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Segments of the GDT: null, unused, code, data, task state (Intel SDM volume 3, section 3.4.5).
struct Segments {
    code: kvm_segment,
    data: kvm_segment,
    task: kvm_segment,
}

impl Segments {
    fn new(long_mode: bool) -> Self {
        let flat = kvm_segment { base: 0, limit: 0xffff_ffff, present: 1, g: 1, s: 1, ..Default::default() };
        let (l, db) = if long_mode { (1, 0) } else { (0, 1) };
        Self {
            // Execute and read, accessed.
            code: kvm_segment { selector: 0x10, type_: 0xb, l, db, ..flat },
            // Read and write, accessed.
            data: kvm_segment { selector: 0x18, type_: 3, db: 1, ..flat },
            // Busy 32-bit or 64-bit task state segment.
            task: kvm_segment { selector: 0x20, type_: 0xb, limit: 0x67, g: 0, s: 0, ..flat },
        }
    }

    fn table(&self) -> [u64; 5] {
        [0, 0, descriptor(&self.code), descriptor(&self.data), descriptor(&self.task)]
    }
}

/// The segment descriptor that a segment register is loaded from.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

/// Sets up what every processor has from the start, whichever it is: floating point, model-specific registers.
pub fn set_common(vcpu: &VcpuFd) -> Result<(), RegsError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries =
        [entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING), entry(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries).map_err(|_| RegsError::Msr(entries[0].index))?;
    let taken =
        vcpu.set_msrs(&msrs).map_err(|error| RegsError::Kvm("set model-specific registers", error))?;
    if let Some(refused) = entries.get(taken) {
        return Err(RegsError::Msr(refused.index));
    }
    // All exceptions masked, double extended precision: the state after FNINIT.
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(|error| RegsError::Kvm("set the floating-point state", error))
}

/// Points the boot processor at `entry` and writes the structures it needs to `memory`.
pub fn set_boot(vcpu: &VcpuFd, memory: &GuestMemoryMmap, entry: Entry) -> Result<(), RegsError> {
    let mut sregs = vcpu.get_sregs().map_err(|error| RegsError::Kvm("read segment registers", error))?;
    let regs = match entry {
        Entry::Linux64(rip) => {
            write_page_tables(memory)?;
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            kvm_regs { rip, rsi: layout::ZERO_PAGE, ..Default::default() }
        }
        Entry::Pvh(rip) => {
            (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0);
            kvm_regs { rip, rbx: layout::START_INFO, ..Default::default() }
        }
    };
    set_segments(&mut sregs, memory, matches!(entry, Entry::Linux64(_)))?;
    vcpu.set_sregs(&sregs).map_err(|error| RegsError::Kvm("set segment registers", error))?;
    let regs = kvm_regs { rflags: RFLAGS_RESERVED, rsp: layout::BOOT_STACK, rbp: layout::BOOT_STACK, ..regs };
    vcpu.set_regs(&regs).map_err(|error| RegsError::Kvm("set registers", error))
}

fn set_segments(sregs: &mut kvm_sregs, memory: &GuestMemoryMmap, long_mode: bool) -> Result<(), RegsError> {
    let segments = Segments::new(long_mode);
    let table = segments.table();
    for (at, descriptor) in (layout::GDT..).step_by(8).zip(table) {
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 8 * 5 - 1;
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
    sregs.cs = segments.code;
    for register in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *register = segments.data;
    }
    sregs.tr = segments.task;
    Ok(())
}

/// Maps the first GiB to itself in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let (pml4, pdpt, pd) = (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    memory.write_obj(pdpt | TABLE, GuestAddress(pml4))?;
    memory.write_obj(pd | TABLE, GuestAddress(pdpt))?;
    for page in 0..512_u64 {
        memory.write_obj(page << 21 | LARGE_PAGE, GuestAddress(pd + 8 * page))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_laid_out_as_the_processor_reads_them() {
        let [_, _, code, data, _] = Segments::new(true).table();
        assert_eq!(code, 0x00af_9b00_0000_ffff);
        assert_eq!(data, 0x00cf_9300_0000_ffff);
        let [_, _, code, ..] = Segments::new(false).table();
        assert_eq!(code, 0x00cf_9b00_0000_ffff);
    }
}
