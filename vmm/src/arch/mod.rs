//! What depends on the processor: address map, processor state at the first instruction, platform tables.
//!
//! The only `cfg(target_arch)` of the VMM stands here; each architecture offers the same names.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;
