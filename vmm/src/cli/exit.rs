//! Exit statuses of `rvm boot`, one for each way to end (docs/exit-status.md has the table for users).
//!
//! The guest's own command, where it tells its exit code, is passed through; the numbers here are chosen
//! outside what programs commonly use.

use crate::arch::native::regs::RegsError;
use crate::boot::{InitrdError, KernelError};
use crate::cli::merge::MergeError;
use crate::devices::virtio::block::BlockError;
use crate::devices::virtio::vsock::VsockError;
use crate::doctor::Verdict;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::run::End;
use crate::vm::BuildError;
use rvm_config::ConfigError;

/// The host failed rvm in something small: a descriptor, a thread, an output.
pub const HOST: u8 = 80;

/// The status for an end of the machine.
pub fn of_end(end: &End) -> u8 {
    match end {
        End::PowerOff(code) => code.unwrap_or(0),
        End::Quit => 0,
        End::Reset => 90,
        End::Panic => 91,
        End::TripleFault => 92,
        End::Failed(_) => 93,
        // As a shell shows the end by a signal.
        End::Signal(signal) => 128_u8.saturating_add(u8::try_from(*signal as i32).unwrap_or(0)),
    }
}

/// The status for a command line that means no machine.
pub fn of_merge(error: &MergeError) -> u8 {
    match error {
        MergeError::Read { .. } => 70,
        MergeError::Parse { source, .. } if source.to_string().starts_with("unknown field") => 72,
        MergeError::Parse { .. } => 71,
        MergeError::Argument(_) | MergeError::Arguments(_) => 74,
    }
}

/// The status for a machine that cannot be made.
pub fn of_build(error: &BuildError) -> u8 {
    match error {
        BuildError::Config(error) => of_config(error),
        BuildError::Cmdline(_) => 73,
        BuildError::GuestFiles(_) => 20,
        BuildError::Open { what: "initrd", .. } => 30,
        BuildError::Open { .. } => 20,
        BuildError::Kernel(error) => of_kernel(error),
        BuildError::Initrd(InitrdError::Read { .. }) => 30,
        BuildError::Initrd(InitrdError::Memory { .. }) => 31,
        BuildError::Memory(MemoryError::Host { .. } | MemoryError::Map { .. }) => 41,
        BuildError::Kvm(error) => of_kvm(error),
        BuildError::NoHardware(error) => Verdict::of(error).exit_code(),
        BuildError::Block(error) => of_block(error),
        BuildError::Vsock(VsockError::Exists(_)) => 65,
        BuildError::Vsock(VsockError::Listen { .. }) => 66,
        BuildError::Regs(RegsError::Kvm(..) | RegsError::Msr(_) | RegsError::Memory(_)) => 13,
        BuildError::BootParameters(_) | BuildError::Host { .. } => HOST,
    }
}

fn of_config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Memory(_) => 40,
        ConfigError::Cpus(_) => 42,
        ConfigError::CmdlineLength(_) => 73,
        _ => 74,
    }
}

fn of_kvm(error: &KvmError) -> u8 {
    match error {
        KvmError::Missing => 10,
        KvmError::Permission => 11,
        KvmError::Open(_) | KvmError::Version | KvmError::Capability(_) | KvmError::Step { .. } => 13,
    }
}

fn of_kernel(error: &KernelError) -> u8 {
    match error {
        KernelError::Read { .. } => 20,
        KernelError::Empty(_) => 21,
        KernelError::Directory(_) => 22,
        KernelError::Format(_) => 23,
        KernelError::Truncated(_) => 24,
        KernelError::Architecture { .. } => 25,
        KernelError::Memory { .. } => 26,
        KernelError::Damaged { .. } => 27,
    }
}

fn of_block(error: &BlockError) -> u8 {
    match error {
        BlockError::Missing(_) => 50,
        BlockError::Locked { .. } => 51,
        BlockError::ReadOnly { .. } => 52,
        BlockError::Size { .. } => 53,
        BlockError::NotADisk { .. } => 54,
        BlockError::Permission { .. } => 55,
        _ => 56,
    }
}
