//! The system calls of a container's making that neither std nor nix offers in a safe form.
//!
//! All `unsafe` of the runtime is here and below. Nothing here decides anything.
#![allow(unsafe_code, reason = "the one place of the runtime for raw system calls; each is wrapped safely")]

mod bpf;
mod mounts;
mod rights;
mod terminal;

use std::ffi::{CString, c_int, c_long, c_uint};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

pub use bpf::{BpfStep, attach_device_program, load_device_program};
pub use mounts::{
    Attributes, attach, clone_tree, create_file_system, mount_file_system, open_file_system,
    pivot_to_working_directory, set_attributes, set_option,
};
pub use rights::{
    CapabilitySets, drop_from_bounding, install_filter, raise_ambient, set_capabilities, set_limit,
};
pub use terminal::{control_terminal, open_terminal, set_window_size, unlock_terminal};

/// The result of a raw system call that gives a new descriptor.
fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this number to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The result of a raw system call that only succeeds or fails.
fn done(result: c_long) -> io::Result<()> {
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// `CLONE_INTO_CGROUP`, which libc gives in a type too narrow for it.
const INTO_GROUP: u64 = 1 << 33;

/// A new process by clone3(2).
pub enum Forked {
    /// In the parent: the child's number and its pidfd.
    Parent(u32, OwnedFd),
    /// In the child.
    Child,
}

/// Forks this process, which has to have one thread, into the namespaces of `flags` and into the group whose
/// directory `cgroup` is. The child is a child of this process's parent.
pub fn fork_beside(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain old data, for which all zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | u64::from((libc::CLONE_PARENT | libc::CLONE_PIDFD).cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_GROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: without CLONE_VM the child has memory of its own; `args` and `pidfd` outlive the call; there is no
    // other thread that could hold a lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match u32::try_from(Errno::result(pid)?).map_err(io::Error::other)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid, descriptor(pidfd.into())?)),
    }
}

/// Ends this process without unwinding or destructors.
pub fn exit(code: c_int) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Joins the namespaces (CLONE_NEW* of `flags`) of `namespace`, which is one, or a process's pidfd.
pub fn join_namespaces(namespace: BorrowedFd<'_>, flags: c_int) -> io::Result<()> {
    // SAFETY: setns takes plain numbers.
    done(unsafe { libc::setns(namespace.as_raw_fd(), flags) }.into())
}

/// Sends a signal to the process of a pidfd.
pub fn signal_process(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the rest are plain numbers.
    done(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) })
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: c_uint) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: nothing is closed now; the rest are plain numbers.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) })
}

/// Makes `number` (0, 1 or 2) another name of `descriptor`.
pub fn be_standard(descriptor: BorrowedFd<'_>, number: c_int) -> io::Result<()> {
    // SAFETY: dup2 takes plain numbers; the standard streams belong to nobody here.
    done(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }.into())
}

/// Gives this process a session keyring of its own.
pub fn new_session_keyring() -> io::Result<()> {
    let unnamed = std::ptr::null::<u8>();
    // SAFETY: a null name is allowed: the keyring has none.
    done(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, unnamed) })
}

/// `IOPRIO_WHO_PROCESS`: the priority is that of a process.
const IOPRIO_WHO_PROCESS: c_int = 1;

/// ioprio_set(2) of this process; the class stands in the bits from 13 on.
pub fn set_io_priority(priority: c_int) -> io::Result<()> {
    // SAFETY: ioprio_set takes plain numbers.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })
}

/// setdomainname(2).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the name and its length go together.
    done(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into())
}

/// `struct sigaction` of rt_sigaction(2), with nothing in it: the default action.
#[repr(C)]
struct DefaultAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Gives every signal its default action: exec leaves ignored ones so, and Rust's start-up code ignores SIGPIPE, glibc's
/// posix_spawn the two of its threads, whoever started this process maybe others. By the system call: glibc keeps its
/// own signals to itself.
pub fn restore_signals() -> io::Result<()> {
    let action = DefaultAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let none = std::ptr::null_mut::<DefaultAction>();
    let fixed = [libc::SIGKILL, libc::SIGSTOP];
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !fixed.contains(signal)) {
        // SAFETY: the action is laid out as the kernel's, its mask has the size that is given, and a null old action
        // is allowed.
        done(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, none, 8) })?;
    }
    Ok(())
}

/// The pidfd of a process that this one has not reaped yet.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes plain numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Has a file system that believes for a while what it was told of the file at `path` (FUSE) ask for it anew.
pub fn ask_anew(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut answer = MaybeUninit::<libc::statx>::uninit();
    let (flags, wanted) = (libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS);
    // SAFETY: `path` ends with a zero, and `answer` has room for what statx writes.
    match unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, wanted, answer.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until one of `events` is there, at most for `time`; `false` when that is over.
pub fn wait_for(fd: impl AsFd, events: PollFlags, time: Duration) -> io::Result<bool> {
    let end = Instant::now() + time;
    let mut polled = [PollFd::new(fd.as_fd(), events)];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up: a wait of less than a millisecond is none.
        let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut polled, left) {
            Ok(0) if Instant::now() < end => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// The descriptors that came with a packet.
pub fn received(control: nix::sys::socket::CmsgIterator<'_>) -> Vec<OwnedFd> {
    let numbers = control.filter_map(|message| match message {
        nix::sys::socket::ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    // SAFETY: the kernel made these numbers for this process with the packet, and nobody else knows them.
    numbers.flatten().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}
