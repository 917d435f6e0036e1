//! `linux.seccomp`: the profile of the specification as a classic BPF program.

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use super::Error;

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u64,
    /// The steps: code, jump if true, jump if false, operand.
    pub program: Vec<(u16, u8, u8, u32)>,
}

/// Compiles a profile.
pub fn compile(_profile: &LinuxSeccomp) -> Result<Filter, Error> {
    Err(Error::unsupported("linux.seccomp", "it is being written"))
}
