//! Sandboxes on the host: virtual machines with an agent in them, and what they need around them.
//!
//! One library for the `rvm` command line and the containerd shim; both are thin over it.

#[cfg(feature = "images")]
pub mod images;
pub mod network;
