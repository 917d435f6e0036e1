//! The container runtime of the agent, as a library: tests drive it without a VM around it.
//!
//! Not here: what PID 1 does besides (`main.rs` and its modules).

pub mod container;
