//! What a virtual machine is, for whoever starts one and for the VMM that runs it.

pub mod guest_abi;
