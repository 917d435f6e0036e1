//! How a VMM is started: its configuration and its control socket are descriptors that it inherits.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rvm_config::VmConfig;
use rvm_config::control::Control;
use tokio::process::{Child, Command};

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
    let child = command.spawn();
    for fd in &given {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(MachineError::host("keep a descriptor"))?;
    }
    Ok((child.map_err(MachineError::host("start the VMM"))?, ours))
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
