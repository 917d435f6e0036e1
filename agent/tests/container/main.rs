//! The container runtime, on the machine that the tests run on: each test makes containers from a root file system
//! of busybox and looks at them from inside. They need root, and a mounted cgroup v2.
//!
//! What needs the controllers of cgroup v2, which not every machine has there, is tested in a guest (tests/e2e).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bundle;
mod filter;
mod life;
mod limits;
mod namespaces;
mod process;
mod refusals;
mod root;
mod terminal;
