//! The rvm virtual machine monitor: a small set of devices around KVM.
//!
//! [`vm`] holds the boot recipe; everything else is called from there, downwards.

pub mod arch;
pub mod boot;
pub mod bus;
#[cfg(feature = "cli")]
pub mod cli;
pub mod console;
pub mod control;
pub mod devices;
pub mod directory_entry;
pub mod doctor;
pub mod event_loop;
pub mod file_limit;
pub mod inherited;
#[cfg(feature = "cli")]
pub mod install;
pub mod jail;
pub mod kvm;
pub mod logging;
pub mod memory;
pub mod output_file;
pub mod output_stream;
pub mod privileges;
pub mod run;
pub mod seccomp;
#[cfg(feature = "cli")]
pub mod state;
pub mod stats;
#[cfg(feature = "cli")]
pub mod supervisor;
#[cfg(feature = "cli")]
pub mod time;
pub mod timing;
pub mod vcpu;
pub mod vm;
