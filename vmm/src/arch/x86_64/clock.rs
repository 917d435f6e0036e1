//! The guest's clock (kvmclock, Documentation/virt/kvm/x86/msr.rst of Linux) where a processor was held.

use kvm_ioctls::VcpuFd;

/// Tells the guest, by its clock, that `vcpu` was held: what it thinks hung was only not let run (PVCLOCK_GUEST_STOPPED,
/// which Linux asks for before it complains of a soft lockup).
pub fn tell_of_pause(vcpu: &VcpuFd) {
    // EINVAL from a guest that has no such clock, or not yet: then there is nobody to tell. Nothing else can fail, and a
    // guest that is not told goes on all the same.
    vcpu.kvmclock_ctrl().ok();
}
