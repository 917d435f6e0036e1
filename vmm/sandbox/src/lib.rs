//! Sandboxes on the host: virtual machines with an agent in them, and what they need around them.
//!
//! One library for the `rvm` command line and the containerd shim; both are thin over it.

pub mod agent;
#[cfg(feature = "images")]
pub mod images;
pub mod machine;
pub mod network;
pub mod rootfs;
pub mod streams;
pub mod vsock;

use std::fs::File;
use std::io::{self, Read};

/// Fills `bytes` from the kernel's random number generator.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}
