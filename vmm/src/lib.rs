//! The rvm virtual machine monitor: a small set of devices around KVM.
//!
//! `vm` holds the boot recipe; everything else is called from there, downwards.

pub mod bus;
pub mod devices;
pub mod doctor;
pub mod event_loop;
