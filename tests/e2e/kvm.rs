//! The ground under every other test: KVM is there and runs a guest.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use kvm_ioctls::Kvm;
use rvm_tests::kvm::run_tiny_guest;

#[test]
fn kvm_speaks_the_stable_api() {
    assert_eq!(Kvm::new().unwrap().get_api_version(), 12);
}

#[test]
fn a_guest_of_a_few_instructions_runs() {
    assert_eq!(run_tiny_guest(0x5a).unwrap().byte, 0x5a);
}
