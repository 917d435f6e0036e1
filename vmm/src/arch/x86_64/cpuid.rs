//! What the guest's processors say of themselves (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
//!
//! KVM's list of what it can offer, with what depends on the machine filled in: identity and topology (one
//! package, one thread a core), the paravirtual clock and the deadline timer kept. The performance monitoring
//! unit is left out: it is of little use in a sandbox and tells much about the host.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

const FEATURES: u32 = 0x1;
const DETERMINISTIC_CACHE: u32 = 0x4;
const PERFORMANCE_MONITORING: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_PERFORMANCE: u32 = 0x8000_0022;
const AMD_CACHE: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: extensions of the performance counters.
const AMD_PERFORMANCE_EXTENSIONS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// Kinds of a topology level (leaf 0xb, ECX bits 8 to 15).
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What this host's KVM can offer to a guest.
pub fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
}

/// What processor `index` of `count` says, made from what KVM offers.
pub fn for_cpu(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    // The topology leaves are made anew: their number of levels is ours.
    cpuid.retain(|entry| !matches!(entry.function, TOPOLOGY | TOPOLOGY_V2));
    for entry in cpuid.as_mut_slice() {
        adapt(entry, u32::from(index), u32::from(count));
    }
    for function in [TOPOLOGY, TOPOLOGY_V2] {
        let offered = supported.as_slice().iter().any(|entry| entry.function == function);
        if offered || function == TOPOLOGY {
            for level in topology(function, u32::from(index), u32::from(count)) {
                // Full only with more leaves than KVM can have: the guest then sees fewer levels.
                cpuid.push(level).ok();
            }
        }
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    match entry.function {
        FEATURES => {
            entry.ebx = entry.ebx & 0xffff | count.next_power_of_two() << 16 | index << 24;
            entry.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // The host's sharing of caches is not the guest's: the last level is shared by all, the rest by none.
        DETERMINISTIC_CACHE if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { count.next_power_of_two() - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | (count.next_power_of_two() - 1) << 26;
        }
        AMD_CACHE if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        PERFORMANCE_MONITORING | AMD_PERFORMANCE => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        AMD_FEATURES => entry.ecx &= !AMD_PERFORMANCE_EXTENSIONS,
        AMD_SIZES => {
            let bits = count.next_power_of_two().trailing_zeros();
            entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (count - 1);
        }
        AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xff, 0),
        _ => {}
    }
}

/// The levels of leaf 0xb or 0x1f: threads of a core (one), cores of the package, the end.
fn topology(function: u32, index: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    let bits = count.next_power_of_two().trailing_zeros();
    let level = |number: u32, kind: u32, shift: u32, below: u32| kvm_cpuid_entry2 {
        function,
        index: number,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: below,
        ecx: number | kind << 8,
        edx: index,
        ..Default::default()
    };
    [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, bits, count), level(2, 0, 0, 0)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    }

    fn offered() -> CpuId {
        let entry = |function| kvm_cpuid_entry2 { function, ebx: 0x00ff_0800, ..Default::default() };
        let functions = [FEATURES, PERFORMANCE_MONITORING, AMD_SIZES, AMD_TOPOLOGY];
        CpuId::from_entries(&functions.map(entry)).unwrap()
    }

    #[test]
    fn each_processor_has_its_own_identity() {
        for index in [0, 5] {
            let cpuid = for_cpu(&offered(), index, 6);
            let features = leaf(&cpuid, FEATURES, 0);
            assert_eq!(features.ebx, u32::from(index) << 24 | 8 << 16 | 0x0800);
            assert_eq!(features.ecx, X2APIC | TSC_DEADLINE | HYPERVISOR);
            assert_eq!(leaf(&cpuid, TOPOLOGY, 1).edx, u32::from(index));
            assert_eq!(leaf(&cpuid, AMD_TOPOLOGY, 0).eax, u32::from(index));
        }
    }

    #[test]
    fn the_package_holds_all_processors_as_cores_of_one_thread() {
        let cpuid = for_cpu(&offered(), 0, 6);
        let [thread, core, end] = [0, 1, 2].map(|level| leaf(&cpuid, TOPOLOGY, level));
        assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, LEVEL_THREAD << 8));
        assert_eq!((core.eax, core.ebx, core.ecx), (3, 6, 1 | LEVEL_CORE << 8));
        assert_eq!((end.ebx, end.ecx), (0, 2));
        assert_eq!(leaf(&cpuid, AMD_SIZES, 0).ecx & 0xf0ff, 3 << 12 | 5);
    }

    #[test]
    fn a_single_processor_is_no_hyperthreaded_package() {
        let cpuid = for_cpu(&offered(), 0, 1);
        assert_eq!(leaf(&cpuid, FEATURES, 0).edx & HTT, 0);
        assert_eq!(leaf(&cpuid, PERFORMANCE_MONITORING, 0).ebx, 0);
    }
}
