//! The end-to-end tests. They run in the lab, or on the machine itself where its KVM is real; each is a process of
//! its own, so none may rely on another, and names of taps, directories and sockets must be its own.

mod agent_service;
mod boot;
mod containerd;
mod daemons;
mod debian;
mod demo;
mod docker;
mod doctor;
mod guest_image;
mod kvm;
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod process;
mod readme;
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod rights;
mod run;
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod terminal;
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod traces;
