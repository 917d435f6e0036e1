//! `rvm boot`, from the command line to what the guest sees. docs/boot.md is what it promises.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod balloon;
mod command;
mod confinement;
mod console;
mod control;
mod disks;
mod ends;
mod hostile;
mod idle;
mod inside;
mod kernels;
mod leftovers;
mod network;
mod platform;
mod refusals;
mod reports;
mod run;
mod shares;
mod sizes;
mod stats;
mod terminal;

#[allow(dead_code, reason = "the other part is for vmm's own tests")]
#[path = "../../../vmm/tests/cli/image.rs"]
mod image;
