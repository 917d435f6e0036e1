//! Opening KVM and making a VM: what is checked before anything is built, and the VM's memory and interrupt
//! controllers.

#![allow(unsafe_code, reason = "KVM takes guest memory by host address")]

use std::io;

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use nix::libc;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::arch::native::layout;

/// Why KVM cannot be used, or a VM not be made.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No such device.
    #[error(
        "cannot open /dev/kvm: it does not exist; load the kvm module (kvm_intel or kvm_amd), enable \
         virtualization in the firmware, or nested virtualization on the host of this machine"
    )]
    Missing,
    /// The device is not ours to use.
    #[error("cannot open /dev/kvm: permission denied; add the user to the group 'kvm', or run as root")]
    Permission,
    /// The device does not open.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// Something else is behind the name.
    #[error("/dev/kvm is not KVM, or not its version {KVM_API_VERSION}")]
    Version,
    /// The host's KVM lacks something that every VM here needs.
    #[error("KVM of this host lacks {0:?}; a newer host kernel has it")]
    Capability(Cap),
    /// A step of making the VM failed.
    #[error("KVM cannot {attempt}")]
    Step {
        /// What was attempted.
        attempt: &'static str,
        /// The host's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
}

impl KvmError {
    /// For `map_err`: KVM's failure of `attempt`.
    pub fn step(attempt: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Step { attempt, source }
    }
}

/// What every VM here needs.
const NEEDED: [Cap; 7] = [
    Cap::Irqchip,
    Cap::UserMemory,
    Cap::Irqfd,
    Cap::Ioeventfd,
    Cap::ImmediateExit,
    Cap::ExtCpuid,
    Cap::TscDeadlineTimer,
];

/// Opens /dev/kvm and checks that it can do what VMs here need.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    if u32::try_from(kvm.get_api_version()) != Ok(KVM_API_VERSION) {
        return Err(KvmError::Version);
    }
    match NEEDED.into_iter().find(|capability| !kvm.check_extension(*capability)) {
        Some(capability) => Err(KvmError::Capability(capability)),
        None => Ok(kvm),
    }
}

/// A VM with `memory` and, in the kernel, an I/O APIC and local APICs. No PIT: the platform has none.
pub fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(KvmError::step("create a VM"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(KvmError::step("place its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(KvmError::step("place its TSS"))?;
    vm.create_irq_chip().map_err(KvmError::step("create the interrupt controllers"))?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is memory of this process that stays mapped as long as the VM lives: `memory`
        // is never unmapped (see `memory::allocate`), and its slots do not overlap.
        unsafe { vm.set_user_memory_region(region) }.map_err(KvmError::step("take the guest's memory"))?;
    }
    Ok(vm)
}
