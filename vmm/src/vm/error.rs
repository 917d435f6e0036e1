//! Why there is no machine.

use std::io;

use rvm_config::guest_files::GuestFilesError;
use vm_memory::GuestMemoryError;

use crate::arch::native::regs::RegsError;
use crate::boot::{CmdlineError, InitrdError, KernelError, OpenError};
use crate::devices::virtio::block::BlockError;
use crate::devices::virtio::fs::FsError;
use crate::devices::virtio::net::NetError;
use crate::devices::virtio::vsock::VsockError;
use crate::doctor;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::output_file::OutputFileError;

/// Why a machine cannot be made of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] rvm_config::ConfigError),
    /// The command line does not fit.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The files that come with rvm are not where they should be.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// A file of the guest cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd cannot be loaded.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A KVM that is of no use.
    #[error(
        "cannot run a VM on this host: {0}; run rvm on a machine with VMX or SVM, or ask for nested virtualization \
         (`rvm doctor` tells more)"
    )]
    NoHardware(doctor::kvm::Error),
    /// A network card cannot be connected.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A disk cannot be used.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A directory cannot be shared.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The socket device cannot be made.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A processor cannot be set up.
    #[error(transparent)]
    Regs(#[from] RegsError),
    /// A file that is to be written cannot be.
    #[error(transparent)]
    Output(#[from] OutputFileError),
    /// The boot parameters do not fit into guest memory.
    #[error("cannot write boot parameters to guest memory")]
    BootParameters(#[from] GuestMemoryError),
    /// The host refused something small: a descriptor, a thread.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host(attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { attempt, source }
    }
}
