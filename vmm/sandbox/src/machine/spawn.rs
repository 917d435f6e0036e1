//! How a VMM is started: its configuration and its control socket are descriptors that it inherits.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rvm_config::VmConfig;
use rvm_config::control::Control;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::MachineError;

/// Starts the VMM; gives its process and our end of the control socket.
pub(super) fn vmm(
    program: &Path,
    config: &VmConfig,
    inherited: &[BorrowedFd<'_>],
) -> Result<(Child, OwnedFd), MachineError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
    let (ours, theirs) = pair.map_err(MachineError::host("make the VMM's control socket"))?;
    // The VMM waits for its end as it waits for its other events.
    let config = VmConfig {
        control: Some(Control { fd: theirs.as_raw_fd() }),
        console: rvm_config::Console::Captured,
        ..config.clone()
    };
    let file = configuration_file(&config)?;
    let mut command = Command::new(program);
    command
        .args(["boot", "--config"])
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let given: Vec<_> = inherited.iter().copied().chain([theirs.as_fd(), file.as_fd()]).collect();
    // Everything of ours is closed on exec but these, for as long as it takes to start this one process.
    for fd in &given {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(MachineError::host("hand a descriptor over"))?;
    }
    let child = spawn_alone(&mut command);
    for fd in &given {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(MachineError::host("keep a descriptor"))?;
    }
    Ok((child.map_err(MachineError::host("start the VMM"))?, ours))
}

/// Starts `command` as the first process of a process namespace, where it can name no other: not to signal it, not to look
/// at it. That takes CAP_SYS_ADMIN: the process of an ordinary user is one among that user's.
fn spawn_alone(command: &mut Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let start = || {
        let _runtime = runtime.enter();
        match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) | Err(Errno::EPERM) => command.spawn(),
            Err(errno) => Err(errno.into()),
        }
    };
    // The namespace is for all that a thread starts from then on, so this is a thread for this process alone.
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, start)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// `config` as JSON in a file that has no name.
fn configuration_file(config: &VmConfig) -> Result<File, MachineError> {
    let attempt = "write the VM's configuration";
    let file = memfd_create(c"rvm-config", MFdFlags::MFD_CLOEXEC).map_err(MachineError::host(attempt))?;
    let mut file = File::from(file);
    let json = serde_json::to_vec(config).map_err(MachineError::host(attempt))?;
    file.write_all(&json).map_err(MachineError::host(attempt))?;
    file.rewind().map_err(MachineError::host(attempt))?;
    Ok(file)
}
