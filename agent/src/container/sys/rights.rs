//! What a process may do: prlimit(2), capabilities(7), seccomp(2).

use std::ffi::c_int;
use std::io;

use super::done;

/// Sets a resource limit of another process.
pub fn set_limit(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: `limit` outlives the call, and a null old limit is allowed.
    done(unsafe { libc::prlimit64(pid, resource, &raw const limit, std::ptr::null_mut()) }.into())
}

/// The three sets of capset(2), a bit for each capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// CapEff of /proc/PID/status.
    pub effective: u64,
    /// CapPrm.
    pub permitted: u64,
    /// CapInh.
    pub inheritable: u64,
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct`: 32 bits of each set.
#[repr(C)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: the sets come as two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Sets this process's capabilities.
pub fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let halves = [0, 32].map(|shift| {
        let half = |set: u64| u32::try_from((set >> shift) & u64::from(u32::MAX)).unwrap_or_default();
        CapabilityData {
            effective: half(sets.effective),
            permitted: half(sets.permitted),
            inheritable: half(sets.inheritable),
        }
    });
    // SAFETY: header and both halves are laid out as version 3 wants them, and outlive the call.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) })
}

/// prctl(2) with numbers only.
fn control(operation: c_int, first: u64, second: u64) -> io::Result<()> {
    // SAFETY: the operations used here take numbers and touch no memory of ours.
    done(unsafe { libc::prctl(operation, first, second, 0, 0) }.into())
}

/// Takes a capability out of the bounding set.
pub fn drop_from_bounding(capability: u32) -> io::Result<()> {
    control(libc::PR_CAPBSET_DROP, capability.into(), 0)
}

/// Adds a capability to the ambient set.
pub fn raise_ambient(capability: u32) -> io::Result<()> {
    control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE.cast_unsigned().into(), capability.into())
}

/// seccomp(2): installs a filter on this process.
pub fn install_filter(program: &[libc::sock_filter], flags: u64) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it and writes nothing to it.
    done(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
}
