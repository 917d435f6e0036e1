//! The network card under a hostile driver, on a cable whose far end sends and listens: packets, or a stream of them.

#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use libfuzzer_sys::fuzz_target;
use rvm::devices::virtio::net::stream::Stream;
use rvm::devices::virtio::net::{HostEnd, Net, Tap};
use rvm::devices::virtio::testing::Part;
use rvm_config::MacAddress;
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const HEADER_SIZE: usize = 12;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The far end of the cable.
enum FarEnd {
    Packets(UnixDatagram),
    /// With the rest of a frame that the cable took a part of: without it the stream would be of no use any more.
    Stream(UnixStream, RefCell<Vec<u8>>),
}

impl FarEnd {
    /// A cable: the card's end, and the other.
    fn new(stream: bool) -> (HostEnd, Self) {
        if stream {
            let (ours, theirs) = UnixStream::pair().expect("a cable");
            let host = Stream::new(OwnedFd::from(ours)).expect("a stream");
            theirs.set_nonblocking(true).expect("a cable that does not block");
            return (HostEnd::Stream(host), Self::Stream(theirs, RefCell::default()));
        }
        let (ours, theirs) = UnixDatagram::pair().expect("a cable");
        ours.set_nonblocking(true).expect("a cable that does not block");
        theirs.set_nonblocking(true).expect("a cable that does not block");
        (HostEnd::Tap(Tap::stand_in(ours.into())), Self::Packets(theirs))
    }

    /// Sends a frame, unless the cable is full.
    fn send(&self, frame: &[u8]) {
        match self {
            Self::Packets(socket) => drop(socket.send(&[&[0; HEADER_SIZE], frame].concat())),
            Self::Stream(stream, rest) => {
                let mut rest = rest.borrow_mut();
                let wire = [&(frame.len() as u32).to_be_bytes(), frame].concat();
                for next in [Vec::new(), wire] {
                    if rest.is_empty() {
                        *rest = next;
                    }
                    while let Ok(count @ 1..) = (&*stream).write(&rest) {
                        rest.drain(..count);
                    }
                }
            }
        }
    }

    /// Takes everything that came.
    fn drain(&self) {
        match self {
            Self::Packets(socket) => while socket.recv(&mut [0; 64]).is_ok() {},
            Self::Stream(stream, _) => while let Ok(1..) = (&*stream).read(&mut [0; 1 << 16]) {},
        }
    }
}

/// A packet of the guest's, or buffers for the next one of the host's, which is on its way.
fn request(far_end: &FarEnd, memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    let choice = input.u8();
    if choice & 1 == 0 {
        let frame = vec![choice; 41 * usize::from(input.u8())];
        far_end.send(&frame);
        return (0..input.u8() % 4).map(|_| Part::Writable(input.address(), input.length())).collect();
    }
    let header = slot(input.u8());
    let bytes = [input.u8() & 3, input.u8() & 0x87];
    memory.write_slice(&bytes, GuestAddress(header)).expect("slots are in memory");
    let data = (0..input.u8() % 4).map(|_| Part::Readable(input.address(), input.length()));
    [Part::Readable(header, u32::from(choice >> 4) * 2)].into_iter().chain(data).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let (host, far_end) = FarEnd::new(choice & 1 != 0);
    let device = Net::new(host, MacAddress([2; 6]), Some(1500), true);
    let mut driver = attack(Box::new(device), input, |memory, input| request(&far_end, memory, input));

    // What is on the cable by now is of the attack.
    driver.transport.pause();
    far_end.drain();
    driver.initialise(u64::MAX);
    let packet = driver.place(&[0; HEADER_SIZE + 4]);
    assert_eq!(driver.request(TRANSMIT, &[Part::Readable(packet, HEADER_SIZE as u32 + 4)]), 0);
    if let FarEnd::Packets(socket) = &far_end {
        assert_eq!(socket.recv(&mut [0; 64]).expect("the packet came out"), HEADER_SIZE + 4);
    }

    let last = b"the last packet";
    let buffer = driver.allocate(1 << 17);
    driver.submit(RECEIVE, &[Part::Writable(buffer, 1 << 17)]);
    driver.kick(RECEIVE);
    far_end.send(last);
    assert!(driver.wait_used(RECEIVE).1 >= HEADER_SIZE as u32);
});
