//! The program that cgroup v2 asks about devices: bpf(2).

use std::ffi::{c_int, c_long};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::descriptor;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfStep {
    /// Operation.
    pub code: u8,
    /// Destination in the lower, source in the upper four bits.
    pub registers: u8,
    /// Of a jump or a memory access.
    pub offset: i16,
    /// Immediate.
    pub value: i32,
}

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may have programs of their own besides; both have to allow an access.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The first fields of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct BpfLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The first fields of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct BpfAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: `attributes` is laid out for `command`, outlives the call, and its size is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    Errno::result(result).map_err(io::Error::from)
}

/// bpf(2): loads a program of the type that cgroup v2 asks about devices.
pub fn load_device_program(program: &[BpfStep]) -> io::Result<OwnedFd> {
    let load = BpfLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    descriptor(bpf(BPF_PROG_LOAD, &load)?)
}

/// bpf(2): has the group ask `program` about devices, and no longer the one `before`.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    before: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(io::Error::other);
    let attach = BpfAttach {
        target_fd: number(cgroup)?,
        attach_bpf_fd: number(program)?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if before.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: before.map_or(Ok(0), number)?,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}
