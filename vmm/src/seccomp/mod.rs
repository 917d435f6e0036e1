//! What each thread may ask of the host's kernel (seccomp(2)), installed before the guest runs.
//!
//! A thread that holds hostile input is confined to what its work needs. A call outside of that ends the process
//! with status [`VIOLATION`] and a line that names thread and call: it is either an attack or a bug of ours.
//! Memory can never be made executable, and no thread can start a program, or open a file, but for the one that
//! serves a shared directory.

#![allow(
    unsafe_code,
    reason = "a signal handler reads its siginfo, and may only call what is async-signal-safe; an option of malloc"
)]

mod program;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use nix::libc::{self, c_long};
use seccompiler::BpfProgram;
use vmm_sys_util::signal::register_signal_handler;

use crate::logging;
use program::Check;

/// The exit status after a forbidden call.
pub const VIOLATION: i32 = 94;

/// The threads of a VMM process, by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Waits for signals, console input and the end.
    Main,
    /// Runs the guest.
    Vcpu,
    /// Serves a network card.
    Net,
    /// Serves a disk.
    Block,
    /// Serves entropy.
    Rng,
    /// Serves the balloon.
    Balloon,
    /// Serves the socket device.
    Vsock,
    /// Serves a shared directory.
    Fs,
}

/// A call by its number, and what its arguments must be.
#[derive(Clone, Copy)]
enum Call {
    /// Whatever the arguments.
    Any(c_long),
    /// The argument (by its index) has this value in its low 32 bits: numbers of ioctls and flags are as wide,
    /// and the kernel ignores what stands above.
    With(c_long, u8, u64),
    /// The argument has none of these bits.
    Without(c_long, u8, u64),
}

use Call::{Any, With, Without};

/// What every thread needs: its events, its locks, its heap, its end.
const COMMON: &[Call] = &[
    Any(libc::SYS_read),
    Any(libc::SYS_write),
    // Before a write, so that it never blocks.
    Any(libc::SYS_poll),
    Any(libc::SYS_ppoll),
    Any(libc::SYS_close),
    Any(libc::SYS_futex),
    Any(libc::SYS_brk),
    Any(libc::SYS_munmap),
    Any(libc::SYS_mremap),
    Any(libc::SYS_madvise),
    Without(libc::SYS_mmap, 2, libc::PROT_EXEC as u64),
    Without(libc::SYS_mprotect, 2, libc::PROT_EXEC as u64),
    Any(libc::SYS_clock_gettime),
    Any(libc::SYS_rt_sigreturn),
    Any(libc::SYS_rt_sigprocmask),
    Any(libc::SYS_sigaltstack),
    Any(libc::SYS_restart_syscall),
    Any(libc::SYS_sched_yield),
    Any(libc::SYS_gettid),
    Any(libc::SYS_exit),
    Any(libc::SYS_exit_group),
    // The terminal, back as it was: any thread may be the one that ends the process.
    With(libc::SYS_ioctl, 1, libc::TCGETS),
    With(libc::SYS_ioctl, 1, libc::TCSETS),
];

/// What every device worker needs: waiting for its descriptors.
const WORKER: &[Call] = &[
    Any(libc::SYS_epoll_create1),
    Any(libc::SYS_epoll_ctl),
    Any(libc::SYS_epoll_wait),
    Any(libc::SYS_epoll_pwait),
];

/// The guest, and kicks of queues.
const VCPU: &[Call] = &[
    With(libc::SYS_ioctl, 1, KVM_RUN),
    // After a pause.
    With(libc::SYS_ioctl, 1, KVM_KVMCLOCK_CTRL),
    // The descriptors that an activation hands to the worker.
    With(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC as u64),
];
/// _IO(KVMIO, 0x80)
const KVM_RUN: u64 = 0xae80;
/// _IO(KVMIO, 0xad)
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;

const MAIN: &[Call] = &[
    Any(libc::SYS_epoll_ctl),
    Any(libc::SYS_epoll_wait),
    Any(libc::SYS_epoll_pwait),
    // Kicking vCPU threads.
    Any(libc::SYS_getpid),
    Any(libc::SYS_tgkill),
    With(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC as u64),
    // The control socket, and what it asks about: memory that is there.
    Any(libc::SYS_recvmsg),
    Any(libc::SYS_sendto),
    Any(libc::SYS_mincore),
    // What is attached by it: looked at, measured, locked, partitioned.
    With(libc::SYS_fcntl, 1, libc::F_GETFL as u64),
    With(libc::SYS_fcntl, 1, libc::F_SETFL as u64),
    With(libc::SYS_fcntl, 1, libc::F_OFD_SETLK as u64),
    Any(libc::SYS_lseek),
    Any(libc::SYS_fstatfs),
    With(libc::SYS_ioctl, 1, BLKROGET),
    Any(libc::SYS_memfd_create),
    Any(libc::SYS_pwrite64),
    Any(libc::SYS_statx),
];

/// _IO(0x12, 94)
const BLKROGET: u64 = 0x125e;

const BLOCK: &[Call] = &[
    Any(libc::SYS_preadv2),
    Any(libc::SYS_pwritev2),
    // Zeroes, where the file system has no call for them.
    Any(libc::SYS_pwrite64),
    Any(libc::SYS_fdatasync),
    Any(libc::SYS_fallocate),
    Any(libc::SYS_io_uring_enter),
    With(libc::SYS_ioctl, 1, BLKDISCARD),
];
/// _IO(0x12, 119)
const BLKDISCARD: u64 = 0x1277;

const NET: &[Call] = &[Any(libc::SYS_readv), Any(libc::SYS_writev), With(libc::SYS_ioctl, 1, TUNSETOFFLOAD)];
/// _IOW('T', 208, unsigned int)
const TUNSETOFFLOAD: u64 = 0x4004_54d0;

const VSOCK: &[Call] = &[
    Any(libc::SYS_readv),
    Any(libc::SYS_writev),
    Any(libc::SYS_recvfrom),
    Any(libc::SYS_sendto),
    Any(libc::SYS_recvmsg),
    Any(libc::SYS_sendmsg),
    Any(libc::SYS_accept4),
    With(libc::SYS_socket, 0, libc::AF_UNIX as u64),
    Any(libc::SYS_connect),
    Any(libc::SYS_shutdown),
    Any(libc::SYS_getsockopt),
    Any(libc::SYS_fcntl),
    With(libc::SYS_ioctl, 1, libc::FIONBIO),
    // Its working directory, from where it connects.
    With(libc::SYS_unshare, 0, libc::CLONE_FS as u64),
    Any(libc::SYS_fchdir),
    // The name of its socket, removed at the end if it is still its own.
    Without(libc::SYS_newfstatat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_unlinkat, 0, NO_DESCRIPTOR),
];

/// Files of a shared directory. Descriptors are positive: AT_FDCWD, from where a path would be walked, is not. A
/// filter does not see the paths; those that the thread gives are single names.
const FS: &[Call] = &[
    With(libc::SYS_unshare, 0, libc::CLONE_FS as u64),
    Any(libc::SYS_fchdir),
    Without(libc::SYS_openat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_statx, 0, NO_DESCRIPTOR),
    Without(libc::SYS_mkdirat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_mknodat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_symlinkat, 1, NO_DESCRIPTOR),
    Without(libc::SYS_linkat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_unlinkat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_renameat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_renameat2, 0, NO_DESCRIPTOR),
    Without(libc::SYS_readlinkat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_fchownat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_fchmodat, 0, NO_DESCRIPTOR),
    Without(libc::SYS_utimensat, 0, NO_DESCRIPTOR),
    Any(libc::SYS_umask),
    Any(libc::SYS_fchmod),
    Any(libc::SYS_ftruncate),
    Any(libc::SYS_fstatfs),
    Any(libc::SYS_preadv2),
    Any(libc::SYS_pwritev2),
    Any(libc::SYS_lseek),
    Any(libc::SYS_fallocate),
    Any(libc::SYS_copy_file_range),
    With(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC as u64),
    // Rust's own check, in a debug build, of a descriptor that is closed.
    With(libc::SYS_fcntl, 1, libc::F_GETFD as u64),
    Any(libc::SYS_fsync),
    Any(libc::SYS_fdatasync),
    Any(libc::SYS_syncfs),
    Any(libc::SYS_getdents64),
    Any(libc::SYS_getxattr),
    Any(libc::SYS_setxattr),
    Any(libc::SYS_listxattr),
    Any(libc::SYS_removexattr),
];
/// The sign of a descriptor.
const NO_DESCRIPTOR: u64 = 1 << 31;

impl ThreadKind {
    fn calls(self) -> impl Iterator<Item = Call> {
        let (own, worker) = match self {
            Self::Main => (MAIN, &[][..]),
            Self::Vcpu => (VCPU, &[][..]),
            Self::Net => (NET, WORKER),
            Self::Block => (BLOCK, WORKER),
            Self::Vsock => (VSOCK, WORKER),
            Self::Fs => (FS, WORKER),
            Self::Rng | Self::Balloon => (&[][..], WORKER),
        };
        COMMON.iter().chain(worker).chain(own).copied()
    }

    /// The filter in the form the kernel takes.
    fn program(self) -> BpfProgram {
        let mut rules: BTreeMap<u32, Vec<Check>> = BTreeMap::new();
        for call in self.calls() {
            let (number, check) = match call {
                Any(number) => (number, Check::Always),
                With(number, argument, value) => (number, Check::Equals(argument, low_half(value))),
                Without(number, argument, bits) => (number, Check::Lacks(argument, low_half(bits))),
            };
            rules.entry(low_half(number.unsigned_abs())).or_default().push(check);
        }
        program::compile(&rules.into_iter().collect::<Vec<_>>())
    }
}

/// # Panics
/// When a constant of the lists above is wider than what it stands for.
fn low_half(constant: u64) -> u32 {
    u32::try_from(constant).expect("numbers of calls, ioctls and flags have 32 bits")
}

/// The filters of this process, or none.
pub struct Filters {
    enabled: bool,
}

impl Filters {
    /// Filters that confine, or, where `enabled` is false, do nothing. Installs the handler of violations.
    pub fn new(enabled: bool) -> io::Result<Self> {
        if enabled {
            register_signal_handler(libc::SIGSYS, on_violation)?;
            share_heap();
        }
        Ok(Self { enabled })
    }

    /// What a thread of `kind` calls first, on itself. It ends the process when the filter cannot be installed:
    /// a thread that should be confined must not run without.
    pub fn confine(&self, kind: ThreadKind) -> impl FnOnce() + Send + 'static {
        let enabled = self.enabled;
        move || {
            if !enabled {
                return;
            }
            if let Err(error) = seccompiler::apply_filter(&kind.program()) {
                cannot_confine(kind, &format_args!("{error}; --no-seccomp runs without"));
            }
        }
    }
}

/// Ends the process, which has a thread that should be confined and is not.
pub fn cannot_confine(kind: ThreadKind, why: &dyn Display) -> ! {
    crate::console::terminal::restore();
    logging::say(&format!("cannot confine the {kind:?} thread: {why}"));
    std::process::exit(VIOLATION);
}

/// Lets the threads that are started from now on have one heap together. glibc gives each its own otherwise, and
/// opens /proc/sys/vm/overcommit_memory before it gives pages of such a one back: some time, in any thread.
fn share_heap() {
    // SAFETY: mallopt changes where memory is taken from; what was taken stays. It does not fail for this option.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Says which call was forbidden, and ends the process.
extern "C" fn on_violation(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// Offset of si_syscall in siginfo_t on x86-64: behind three ints, padding and a pointer.
    const SI_SYSCALL: usize = 24;
    let number = info.cast::<u8>().wrapping_add(SI_SYSCALL).cast::<i32>();
    // SAFETY: the kernel hands a siginfo_t of 128 bytes, in which an int stands at this offset for SIGSYS.
    let number = unsafe { number.read() };
    let mut line = *b"rvm: ended: a thread made a system call that its seccomp filter forbids: number ....\n";
    let digits = line.len() - 5..line.len() - 1;
    let mut rest = number;
    for digit in line[digits].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest.rem_euclid(10)).unwrap_or(0);
        rest /= 10;
    }
    // For a moment only, as of everything that a VMM says at its end.
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll(2) is async-signal-safe, and `stderr` is one pollfd.
    if unsafe { libc::poll(&raw mut stderr, 1, 2000) } == 1 {
        // SAFETY: write(2) is async-signal-safe, and the bytes are there.
        unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    }
    // Takes a lock only if it is free, and is a system call otherwise.
    crate::console::terminal::restore();
    // SAFETY: _exit(2) is async-signal-safe, and does not return.
    unsafe { libc::_exit(VIOLATION) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests;
