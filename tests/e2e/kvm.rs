//! The ground under every other test: KVM is there and runs a guest.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use kvm_ioctls::Kvm;
use rvm_tests::kvm::{Program, run_tiny_guest};

#[test]
fn kvm_speaks_the_stable_api() {
    assert_eq!(Kvm::new().unwrap().get_api_version(), 12);
}

#[test]
fn a_guest_of_a_few_instructions_runs() {
    let ran = run_tiny_guest(Program { byte: 0x5a, spins: 100, exits: 3 }).unwrap();
    assert_eq!(ran.bytes, [0x5a; 3]);
}
