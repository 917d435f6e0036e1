//! Exit statuses of `rvm boot`, one for each way to end.
//!
//! The exit code of the guest's command is passed through, where it tells one; the numbers here are outside what
//! programs commonly use. docs/exit-status.md has the same table for users; a test compares the two.

use crate::arch::native::regs::RegsError;
use crate::boot::{FileKind, InitrdError, KernelError, OpenError};
use crate::cli::merge::MergeError;
use crate::devices::virtio::block::BlockError;
use crate::devices::virtio::fs::FsError;
use crate::devices::virtio::net::NetError;
use crate::devices::virtio::vsock::VsockError;
use crate::doctor::Verdict;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::run::End;
use crate::vm::BuildError;
use rvm_config::ConfigError;
use rvm_config::control::Reason;

macro_rules! statuses {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        /// How `rvm boot` ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Status {
            $(#[doc = $meaning] $name = $number,)*
        }

        /// Every status with its meaning.
        pub const TABLE: &[(Status, &str)] = &[$((Status::$name, $meaning),)*];
    };
}

statuses! {
    Done = 0, "the guest powered itself off and told no exit code, or the user ended it with Ctrl-a x or by the control socket";
    Usage = 2, "the command line cannot be understood";
    NoKvm = 10, "there is no `/dev/kvm`";
    KvmPermission = 11, "no permission to open `/dev/kvm`";
    KvmNoHardware = 12, "KVM is there, without hardware under it";
    KvmBroken = 13, "KVM is there, and does not work";
    KernelMissing = 20, "the kernel does not exist";
    KernelEmpty = 21, "the kernel is an empty file";
    KernelNotAFile = 22, "the kernel is a directory, or something else that is no file";
    KernelFormat = 23, "the kernel is neither an ELF vmlinux nor a bzImage";
    KernelTruncated = 24, "the kernel is cut short";
    KernelArchitecture = 25, "the kernel is for another architecture";
    KernelMemory = 26, "the kernel does not fit into the VM's memory";
    KernelDamaged = 27, "the kernel says of itself what cannot be";
    KernelUnreadable = 28, "the kernel cannot be read";
    GuestFiles = 29, "the kernel and image that come with rvm are not found";
    InitrdMissing = 30, "the initrd does not exist";
    InitrdMemory = 31, "the initrd does not fit into the VM's memory above the kernel";
    InitrdUnreadable = 32, "the initrd is empty, no file, or cannot be read";
    Memory = 40, "an amount of memory that a VM cannot have";
    HostMemory = 41, "more memory than the host has, or lets this process have";
    Cpus = 42, "a number of vCPUs that a VM cannot have";
    DiskMissing = 50, "a disk does not exist";
    DiskLocked = 51, "a disk is in use already";
    DiskReadOnly = 52, "a disk to be written to is read-only";
    DiskSize = 53, "a disk's length is not a positive multiple of 512 bytes, or a part of it is empty";
    NotADisk = 54, "a disk is a directory, or something else that is no disk";
    DiskPermission = 55, "no permission to open a disk";
    DiskFailed = 56, "a disk cannot be opened or used for another reason";
    ShareMissing = 57, "a directory or file to share does not exist";
    NotAShare = 58, "what is to be shared is no directory, or, where a file is to be shared, no regular file";
    ShareFailed = 59, "a directory or file cannot be shared for another reason";
    NetMissing = 60, "a tap does not exist";
    NetTaken = 61, "a tap is in use already";
    NetPermission = 62, "no permission to use a tap, or the host has none";
    NetNotATap = 63, "a network card's interface or descriptor is no tap or socket as rvm needs it";
    NetFailed = 64, "a tap cannot be used for another reason";
    VsockTaken = 65, "something is where the vsock socket is to be made";
    VsockFailed = 66, "the vsock socket cannot be made";
    ConfigUnreadable = 70, "the configuration file cannot be read";
    ConfigSyntax = 71, "the configuration file is no JSON, or a value in it is of the wrong kind";
    ConfigField = 72, "the configuration has a field that rvm does not know";
    Cmdline = 73, "a kernel command line too long, or with what it cannot carry";
    Config = 74, "another value of the configuration is out of bounds, or two contradict each other";
    Output = 75, "the console's file or the trace cannot be written";
    Control = 76, "the control socket is none";
    Host = 80, "the host refused something small: a descriptor, a thread";
    Reset = 90, "the guest asked for a reset; rvm does not start it again";
    Panic = 91, "the guest's kernel panicked";
    TripleFault = 92, "the guest crashed (triple fault)";
    KvmFailed = 93, "KVM cannot go on with the guest";
    Violation = 94, "a thread of rvm made a system call that its seccomp filter forbids";
    Bug = 95, "a bug in rvm: it says where";
    Abandoned = 96, "the other end of the control socket was closed";
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        status as Self
    }
}

/// The status for an end of the machine.
pub fn of_end(end: &End) -> u8 {
    let status = match end {
        End::PowerOff(Some(code)) => return *code,
        // As a shell shows the end by a signal.
        End::Signal(signal) => return 128_u8.saturating_add(u8::try_from(*signal as i32).unwrap_or(0)),
        End::PowerOff(None) | End::Quit => Status::Done,
        End::Reset => Status::Reset,
        End::Panic => Status::Panic,
        End::TripleFault => Status::TripleFault,
        End::Failed(_) => Status::KvmFailed,
        End::Abandoned => Status::Abandoned,
    };
    status.into()
}

/// Why a machine ended, as the control socket tells it.
pub fn reason(end: &End) -> Reason {
    match end {
        End::PowerOff(Some(_)) => Reason::Exited,
        End::PowerOff(None) => Reason::PowerOff,
        End::Reset => Reason::Reset,
        End::Panic => Reason::Panic,
        End::TripleFault => Reason::TripleFault,
        End::Failed(_) => Reason::Failed,
        // There is nobody to hear of the latter.
        End::Quit | End::Abandoned => Reason::Stopped,
        End::Signal(_) => Reason::Signal,
    }
}

/// The status for a command line that means no machine.
pub fn of_merge(error: &MergeError) -> Status {
    match error {
        MergeError::Read { .. } | MergeError::Long(_) => Status::ConfigUnreadable,
        MergeError::Parse { reason, .. } if reason.starts_with("unknown field") => Status::ConfigField,
        MergeError::Parse { .. } => Status::ConfigSyntax,
        MergeError::Argument(_) | MergeError::Arguments(_) => Status::Cmdline,
    }
}

/// The status for a machine that cannot be made.
pub fn of_build(error: &BuildError) -> Status {
    match error {
        BuildError::Config(error) => of_config(error),
        BuildError::Cmdline(_) => Status::Cmdline,
        BuildError::GuestFiles(_) => Status::GuestFiles,
        BuildError::Open(error) => of_open(error),
        BuildError::Kernel(error) => of_kernel(error),
        BuildError::Initrd(InitrdError::Read { .. }) => Status::InitrdUnreadable,
        BuildError::Initrd(InitrdError::Memory { .. }) => Status::InitrdMemory,
        BuildError::Memory(MemoryError::Host { .. } | MemoryError::Map { .. }) => Status::HostMemory,
        BuildError::Kvm(error) => of_kvm(error),
        BuildError::NoHardware(error) => match Verdict::of(error) {
            Verdict::NoKvm => Status::NoKvm,
            Verdict::NoPermission => Status::KvmPermission,
            Verdict::NotHardware => Status::KvmNoHardware,
            Verdict::CanRun | Verdict::BrokenKvm => Status::KvmBroken,
        },
        BuildError::Block(error) => of_block(error),
        BuildError::Fs(FsError::Missing(_)) => Status::ShareMissing,
        BuildError::Fs(FsError::NotADirectory(_) | FsError::NotAFile(_)) => Status::NotAShare,
        BuildError::Fs(FsError::Permission(_) | FsError::Io { .. }) => Status::ShareFailed,
        BuildError::Net(error) => of_net(error),
        BuildError::Vsock(VsockError::Exists(_)) => Status::VsockTaken,
        BuildError::Vsock(VsockError::Listen { .. }) => Status::VsockFailed,
        BuildError::Regs(RegsError::Kvm(..) | RegsError::Msr(_) | RegsError::Memory(_)) => Status::KvmBroken,
        BuildError::Output(_) => Status::Output,
        BuildError::BootParameters(_) | BuildError::Host { .. } => Status::Host,
    }
}

/// The status for a configuration that no machine can have.
pub fn of_config(error: &ConfigError) -> Status {
    match error {
        ConfigError::Memory(_) => Status::Memory,
        ConfigError::Cpus(_) => Status::Cpus,
        ConfigError::CmdlineLength(_) | ConfigError::CmdlineCharacter(_) => Status::Cmdline,
        _ => Status::Config,
    }
}

fn of_kvm(error: &KvmError) -> Status {
    match error {
        KvmError::Missing => Status::NoKvm,
        KvmError::Permission => Status::KvmPermission,
        KvmError::Open(_) | KvmError::Version | KvmError::Capability(_) | KvmError::Step { .. } => {
            Status::KvmBroken
        }
    }
}

fn of_open(error: &OpenError) -> Status {
    match error {
        OpenError::Missing(FileKind::Kernel, _) => Status::KernelMissing,
        OpenError::Empty(FileKind::Kernel, _) => Status::KernelEmpty,
        OpenError::NotAFile { kind: FileKind::Kernel, .. } => Status::KernelNotAFile,
        OpenError::Denied(FileKind::Kernel, _) | OpenError::Io { kind: FileKind::Kernel, .. } => {
            Status::KernelUnreadable
        }
        OpenError::Missing(FileKind::Initrd, _) => Status::InitrdMissing,
        OpenError::Empty(FileKind::Initrd, _)
        | OpenError::NotAFile { kind: FileKind::Initrd, .. }
        | OpenError::Denied(FileKind::Initrd, _)
        | OpenError::Io { kind: FileKind::Initrd, .. } => Status::InitrdUnreadable,
    }
}

fn of_kernel(error: &KernelError) -> Status {
    match error {
        KernelError::Read { .. } => Status::KernelUnreadable,
        KernelError::Format(_) => Status::KernelFormat,
        KernelError::Truncated(_) => Status::KernelTruncated,
        KernelError::Architecture { .. } => Status::KernelArchitecture,
        KernelError::Memory { .. } => Status::KernelMemory,
        KernelError::Damaged { .. } => Status::KernelDamaged,
    }
}

fn of_block(error: &BlockError) -> Status {
    match error {
        BlockError::Missing(_) => Status::DiskMissing,
        BlockError::Locked { .. } => Status::DiskLocked,
        BlockError::ReadOnly { .. } => Status::DiskReadOnly,
        BlockError::Size { .. } | BlockError::Empty(_) => Status::DiskSize,
        BlockError::NotADisk { .. } => Status::NotADisk,
        BlockError::Permission { .. } => Status::DiskPermission,
        BlockError::Engine { .. } | BlockError::Io { .. } => Status::DiskFailed,
    }
}

fn of_net(error: &NetError) -> Status {
    match error {
        NetError::Missing(_) => Status::NetMissing,
        NetError::Taken(_) => Status::NetTaken,
        NetError::NoTun { .. } | NetError::Forbidden { .. } => Status::NetPermission,
        NetError::NotATap(_)
        | NetError::NotATapDescriptor { .. }
        | NetError::WrongFormat(_)
        | NetError::NotASocket { .. }
        | NetError::NotAStream(_) => Status::NetNotATap,
        NetError::Refused { .. } | NetError::Random(_) => Status::NetFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_table_is_ours() {
        let page = include_str!("../../../docs/exit-status.md");
        let rows =
            page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
        let rows: Vec<_> =
            rows.filter_map(|(number, meaning)| Some((number.parse().ok()?, meaning))).collect();
        let ours: Vec<(u8, &str)> =
            TABLE.iter().map(|(status, meaning)| (u8::from(*status), *meaning)).collect();
        assert_eq!(rows, ours);
    }

    #[test]
    fn doctor_and_the_seccomp_filters_end_with_the_same_numbers() {
        for (verdict, status) in [
            (Verdict::NoKvm, Status::NoKvm),
            (Verdict::NoPermission, Status::KvmPermission),
            (Verdict::NotHardware, Status::KvmNoHardware),
            (Verdict::BrokenKvm, Status::KvmBroken),
        ] {
            assert_eq!(verdict.exit_code(), u8::from(status));
        }
        assert_eq!(crate::seccomp::VIOLATION, i32::from(u8::from(Status::Violation)));
    }

    #[test]
    fn the_guests_exit_code_and_signals_are_told_as_a_shell_does() {
        use nix::sys::signal::Signal;
        assert_eq!(of_end(&End::PowerOff(Some(7))), 7);
        assert_eq!(of_end(&End::PowerOff(None)), 0);
        assert_eq!(of_end(&End::Signal(Signal::SIGTERM)), 143);
    }
}
