//! The network card under a hostile driver, on a cable whose far end sends and listens.

#![no_main]

use std::os::unix::net::UnixDatagram;

use libfuzzer_sys::fuzz_target;
use rvm::devices::virtio::net::{Net, Tap};
use rvm::devices::virtio::testing::Part;
use rvm_config::MacAddress;
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const HEADER_SIZE: usize = 12;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A packet of the guest's, or buffers for the next one of the host's, which is on its way.
fn request(far_end: &UnixDatagram, memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    let choice = input.u8();
    if choice & 1 == 0 {
        let packet = vec![choice; HEADER_SIZE + 41 * usize::from(input.u8())];
        // A full cable is no matter.
        far_end.send(&packet).ok();
        return (0..input.u8() % 4).map(|_| Part::Writable(input.address(), input.length())).collect();
    }
    let header = slot(input.u8());
    let bytes = [input.u8() & 3, input.u8() & 0x87];
    memory.write_slice(&bytes, GuestAddress(header)).expect("slots are in memory");
    let data = (0..input.u8() % 4).map(|_| Part::Readable(input.address(), input.length()));
    [Part::Readable(header, u32::from(choice >> 4) * 2)].into_iter().chain(data).collect()
}

fuzz_target!(|input: &[u8]| {
    let (tap, far_end) = UnixDatagram::pair().expect("a cable");
    tap.set_nonblocking(true).expect("a cable that does not block");
    far_end.set_nonblocking(true).expect("a cable that does not block");
    let device = Net::new(Tap::stand_in(tap.into()), MacAddress([2; 6]), Some(1500), true);
    let mut driver = attack(Box::new(device), input, |memory, input| request(&far_end, memory, input));

    // What is on the cable by now is of the attack.
    driver.transport.pause();
    while far_end.recv(&mut [0; 64]).is_ok() {}
    driver.initialise(u64::MAX);
    let packet = driver.place(&[0; HEADER_SIZE + 4]);
    assert_eq!(driver.request(TRANSMIT, &[Part::Readable(packet, HEADER_SIZE as u32 + 4)]), 0);
    assert_eq!(far_end.recv(&mut [0; 64]).expect("the packet came out"), HEADER_SIZE + 4);

    let last = b"the last packet";
    let buffer = driver.allocate(1 << 17);
    driver.submit(RECEIVE, &[Part::Writable(buffer, 1 << 17)]);
    driver.kick(RECEIVE);
    far_end.send(&[&[0; HEADER_SIZE], &last[..]].concat()).ok();
    assert!(driver.wait_used(RECEIVE).1 >= HEADER_SIZE as u32);
});
