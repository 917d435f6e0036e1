//! The `rvm` program given bad input: one clear line, a status of its own, and nothing left behind.
//!
//! Nothing here needs KVM: what is wrong with a command line, a configuration or a file is said before KVM is
//! opened, and the last tests are about a KVM that cannot be used. docs/exit-status.md has the statuses.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cmdline;
mod config;
mod control;
mod disk;
mod image;
mod initrd;
mod kernel;
mod kvm;
mod network;
mod output;
mod place;
mod size;
mod usage;
