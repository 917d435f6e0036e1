//! Where the programs under test and the guest's files are.
//!
//! `make build` leaves them in `target/release`; the lab has the same files in the directory that
//! `RVM_ARTIFACTS` names.

use std::env;
use std::path::{Path, PathBuf};

/// The directory that `make build` fills.
pub fn directory() -> PathBuf {
    env::var_os("RVM_ARTIFACTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"), PathBuf::from)
}

/// The `rvm` program.
pub fn rvm() -> PathBuf {
    directory().join("rvm")
}

/// Our guest kernel (ELF vmlinux).
pub fn vmlinux() -> PathBuf {
    directory().join("guest/vmlinux")
}

/// The same kernel as a bzImage.
pub fn bz_image() -> PathBuf {
    directory().join("guest/bzImage")
}

/// Our guest image (initramfs), with init and a shell.
pub fn initramfs() -> PathBuf {
    directory().join("guest/initramfs.cpio")
}

/// The guest image that containers run in: the agent alone, which serves the host.
pub fn agent_initramfs() -> PathBuf {
    directory().join("guest/initramfs-agent.cpio")
}

/// The guest image without a shell: init alone, which is what benchmarks boot.
pub fn bare_initramfs() -> PathBuf {
    directory().join("guest/initramfs-bare.cpio")
}

/// A disk handed to the lab by name (a block device inside, the image's file outside); `None` if there is none.
///
/// Writes to it are lost when the lab ends, but every test of one run sees those of the tests before it.
pub fn disk(name: &str) -> Option<PathBuf> {
    env::var_os(disk_variable(name)).map(PathBuf::from)
}

/// The environment variable that says where the disk of this name is.
pub fn disk_variable(name: &str) -> String {
    format!("RVM_DISK_{}", name.to_uppercase())
}

/// Where a benchmark or a test leaves files that the outside shall get.
pub fn out() -> PathBuf {
    env::var_os("RVM_OUT").map_or_else(env::temp_dir, PathBuf::from)
}

/// Whether this runs in the lab.
pub fn in_lab() -> bool {
    env::var_os("RVM_LAB").is_some()
}
