//! The balloon under a hostile driver.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rvm::devices::virtio::balloon::Balloon;
use rvm::devices::virtio::testing::Part;
use rvm_config::MemorySize;
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const INFLATE: usize = 0;
const REPORTING: usize = 2;
const PAGE: u64 = 4096;

/// Page numbers, or ranges of pages, beside what the driver itself needs.
fn request(memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    let count = input.u8() % 16;
    if input.u8() & 1 == 0 {
        return (0..count % 4).map(|_| Part::Writable(far(input), input.length())).collect();
    }
    let numbers = slot(input.u8());
    for index in 0..u64::from(count) {
        let number = (far(input) / PAGE) as u32;
        memory.write_obj(number, GuestAddress(numbers + 4 * index)).expect("slots are in memory");
    }
    vec![Part::Readable(numbers, 4 * u32::from(count) + u32::from(input.u8() & 1))]
}

/// An address where a region of memory ends or begins: not the rings, or every attack ends at once.
fn far(input: &mut Input) -> u64 {
    match input.address() {
        low @ 0..0x40_0000 => low + 0x40_0000,
        high => high,
    }
}

fuzz_target!(|input: &[u8]| {
    let config = rvm_config::Balloon { size: MemorySize::from_mib(1), ..Default::default() };
    let mut driver = attack(Box::new(Balloon::new(&config, MemorySize::from_mib(256))), input, request);

    driver.initialise(u64::MAX);
    let page = 15 << 20;
    for queue in [INFLATE, REPORTING] {
        driver.memory.write_slice(&[1; 2 * PAGE as usize], GuestAddress(page)).expect("memory is there");
        let number = driver.place(&((page / PAGE) as u32).to_le_bytes());
        let part = match queue {
            INFLATE => Part::Readable(number, 4),
            _ => Part::Writable(page, PAGE as u32),
        };
        assert_eq!(driver.request(queue, &[part]), 0);
        assert_eq!(driver.bytes(page + PAGE - 1, 2), [0, 1], "this page was given back and the next one not");
    }
});
