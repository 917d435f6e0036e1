//! The entropy device under a hostile driver.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rvm::devices::virtio::rng::Rng;
use rvm::devices::virtio::testing::Part;
use rvm_fuzz::attack;

fuzz_target!(|input: &[u8]| {
    let device = Rng::new().expect("the host has /dev/urandom");
    let mut driver = attack(Box::new(device), input, |_, _| Vec::new());
    driver.initialise(u64::MAX);
    let buffer = driver.allocate(16);
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 16)]), 16);
});
