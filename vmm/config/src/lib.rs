//! What a virtual machine is: the only interface between whoever starts one and the VMM that runs it.
//!
//! Parsing (JSON, or the `key=value` options of the command line) fills the types; [`VmConfig::validate`]
//! checks them without touching the host; only the VMM opens files. Unknown fields are refused.

pub mod control;
pub mod guest_abi;
pub mod guest_files;
mod limits;
mod machine;
mod network;
mod options;
mod share;
mod storage;
mod units;

pub use control::Control;
pub use limits::{
    ConfigError, MAX_CMDLINE, MAX_CPUS, MAX_DEVICES, MAX_MEMORY, MAX_SOCKET_PATH, MAX_TAG, MIN_MEMORY,
};
pub use machine::{Balloon, Console, Kernel, VmConfig};
pub use network::{MacAddress, Net, NetHost, Socket, Tap, Vsock};
pub use options::OptionError;
pub use share::{CachePolicy, SHARED_FILE, Share};
pub use storage::{Disk, DiskSource, IoEngine, MAX_DISK_PARTS};
pub use units::{MemorySize, UnitError};
