//! The system calls of a container's making that neither std nor nix offers in a safe form.
//!
//! All `unsafe` of the runtime is here. Nothing here decides anything.
#![allow(unsafe_code, reason = "the one place of the runtime for raw system calls; each is wrapped safely")]

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

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

/// fsopen(2): a file system to be configured.
pub fn open_file_system(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// fsconfig(2): sets an option, with a value or as a flag.
pub fn set_option(fs: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let (command, value) = match value {
        Some(value) => (libc::FSCONFIG_SET_STRING, value.as_ptr()),
        None => (libc::FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // SAFETY: key and value end with zero bytes and outlive the call; a flag's value is null.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key.as_ptr(), value, 0) })
}

/// fsconfig(2): makes the file system as configured.
pub fn create_file_system(fs: BorrowedFd<'_>) -> io::Result<()> {
    let (command, none) = (libc::FSCONFIG_CMD_CREATE, std::ptr::null::<u8>());
    // SAFETY: this command takes neither key nor value.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, none, none, 0) })
}

/// fsmount(2): a made file system as a mount that is attached nowhere. `attributes` are MOUNT_ATTR_*.
pub fn mount_file_system(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: fsmount takes plain numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes) })
}

/// open_tree(2): a copy of what is mounted at `path` below `directory` (with what is mounted below it, if
/// `recursive`), attached nowhere. An empty path means the directory itself.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_EMPTY_PATH | recursive).cast_unsigned();
    // SAFETY: the path ends with a zero byte and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2): attaches the mount `tree` at the file or directory `target`.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (tree.as_raw_fd(), target.as_raw_fd());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty and end with a zero byte.
    done(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })
}

/// What mount_setattr(2) changes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_SHARED, MS_PRIVATE, ...; 0: as it is.
    pub propagation: u64,
}

/// mount_setattr(2) of a mount, with a user namespace where `attributes` has MOUNT_ATTR_IDMAP.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    user_namespace: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let userns_fd = match user_namespace {
        Some(namespace) => u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
        None => 0,
    };
    let Attributes { set, clear, propagation } = attributes;
    let change = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is empty and ends with a zero byte; `change` outlives the call, and its size is given.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size,
        )
    })
}

/// pivot_root(".", "."): what is the working directory becomes the root; the old root is mounted over it.
pub fn pivot_to_working_directory() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: both paths end with a zero byte.
    done(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })
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

/// Makes a terminal this session's own. This process has to lead a session without one.
pub fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
}

/// Unlocks the terminal of a master.
pub fn unlock_terminal(master: BorrowedFd<'_>) -> io::Result<()> {
    let unlocked: c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which outlives the call.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into())
}

/// Opens the terminal of a master, whatever its file is called.
pub fn open_terminal(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes a number.
    descriptor(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Sets the size of a terminal by its master.
pub fn set_window_size(master: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which outlives the call.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())
}

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

/// Signals that are ignored when a program of ours starts, and that exec would leave so: Rust's start-up code ignores
/// SIGPIPE, glibc's posix_spawn the two of its threads.
const IGNORED: [c_int; 3] = [libc::SIGPIPE, 32, 33];

/// Gives ignored signals their default action. By the system call: glibc keeps its own signals to itself.
pub fn restore_signals() -> io::Result<()> {
    let action = DefaultAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let none = std::ptr::null_mut::<DefaultAction>();
    for signal in IGNORED {
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
