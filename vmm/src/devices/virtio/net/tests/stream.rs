//! The card on a stream socket, the program at its other end being the test.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use rvm_config::{MacAddress, NetHost, Socket};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF,
};
use vm_memory::GuestAddress;

use super::{PLAIN, RECEIVE, TRANSMIT, pattern, post, receive, send};
use crate::devices::virtio::net::offload::bit;
use crate::devices::virtio::net::stream::Stream;
use crate::devices::virtio::net::{HostEnd, Net, NetError};
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, PATIENCE, Part};
use crate::seccomp::{Filters, ThreadKind};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

fn net() -> (Net, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = HostEnd::Stream(Stream::new(OwnedFd::from(ours)).unwrap());
    (Net::new(host, MAC, None, true), theirs)
}

/// A card whose driver took every feature, and the program.
fn card() -> (Driver, UnixStream) {
    let (net, theirs) = net();
    (Driver::start(Box::new(net), u64::MAX), theirs)
}

/// A frame as it is on the wire.
fn framed(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    [&length.to_be_bytes(), frame].concat()
}

/// The next frame from the guest.
fn arrived(theirs: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    theirs.read_exact(&mut length).unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    theirs.read_exact(&mut frame).unwrap();
    frame
}

fn link_is_up(driver: &mut Driver) -> bool {
    // Behind the address.
    driver.register(VIRTIO_MMIO_CONFIG + 4) >> 16 & 1 != 0
}

/// Waits until the driver is told of a change of the configuration.
fn wait_link_down(driver: &mut Driver) {
    let end = std::time::Instant::now() + PATIENCE;
    while link_is_up(driver) {
        assert!(std::time::Instant::now() < end, "the link stays up");
        std::thread::yield_now();
    }
}

#[test]
fn a_frame_leaves_behind_its_length() {
    let (mut driver, mut theirs) = card();
    for length in [14, 60, 1514, 65_535] {
        send(&mut driver, PLAIN, &pattern(1, length));
        assert_eq!(arrived(&mut theirs), pattern(1, length));
    }
}

#[test]
fn a_frame_comes_in_however_it_is_cut() {
    let (mut driver, mut theirs) = card();
    let frame = pattern(2, 100);
    for cut in [1, 3, 4, 5, 50, 103] {
        let buffer = post(&mut driver, 2000);
        driver.kick(RECEIVE);
        let wire = framed(&frame);
        let (first, rest) = wire.split_at(cut);
        theirs.write_all(first).unwrap();
        // By the time that this one has left, the card may have seen the first part.
        send(&mut driver, PLAIN, b"out");
        theirs.write_all(rest).unwrap();
        let (packet, buffers) = receive(&mut driver, &[buffer]);
        assert_eq!((&packet[..10], &packet[12..], buffers), (&PLAIN[..10], &frame[..], 1), "cut at {cut}");
    }
}

#[test]
fn many_frames_in_one_read_come_in_one_by_one() {
    let (mut driver, mut theirs) = card();
    let wire: Vec<u8> = (0..50).flat_map(|seed| framed(&pattern(seed, 100 + usize::from(seed)))).collect();
    theirs.write_all(&wire).unwrap();
    let buffers: Vec<_> = (0..50).map(|_| post(&mut driver, 200)).collect();
    driver.kick(RECEIVE);
    for (seed, buffer) in (0..50).zip(buffers) {
        let (packet, _) = receive(&mut driver, &[buffer]);
        assert_eq!(packet[12..], pattern(seed, 100 + usize::from(seed)));
    }
}

#[test]
fn a_long_frame_fills_several_buffers_and_waits_for_them() {
    let (mut driver, mut theirs) = card();
    let first = post(&mut driver, 1500);
    driver.kick(RECEIVE);
    let frame = pattern(3, 4000);
    theirs.write_all(&framed(&frame)).unwrap();
    theirs.write_all(&framed(b"next")).unwrap();
    send(&mut driver, PLAIN, b"out");
    assert_eq!(driver.used(RECEIVE), None);
    let buffers = [first, post(&mut driver, 1500), post(&mut driver, 1500), post(&mut driver, 1500)];
    driver.kick(RECEIVE);
    let (packet, count) = receive(&mut driver, &buffers);
    assert_eq!((&packet[12..], count), (&frame[..], 3));
    assert_eq!(&receive(&mut driver, &buffers[3..]).0[12..], b"next");
}

#[test]
fn the_longest_frame_comes_in_and_a_longer_one_is_the_end_of_the_link() {
    let (mut driver, mut theirs) = card();
    let buffers: Vec<_> = (0..50).map(|_| post(&mut driver, 1500)).collect();
    driver.kick(RECEIVE);
    theirs.write_all(&framed(&pattern(4, 65_550))).unwrap();
    assert_eq!(receive(&mut driver, &buffers).0[12..], pattern(4, 65_550));
    assert!(link_is_up(&mut driver));
    theirs.write_all(&65_551_u32.to_be_bytes()).unwrap();
    wait_link_down(&mut driver);
    // What is sent now is dropped, and the card goes on.
    send(&mut driver, PLAIN, b"out");
}

#[test]
fn a_program_that_ends_is_the_end_of_the_link() {
    for half in [false, true] {
        let (mut driver, theirs) = card();
        post(&mut driver, 1500);
        driver.kick(RECEIVE);
        let kept = half.then_some(&theirs);
        match kept {
            Some(theirs) => theirs.shutdown(std::net::Shutdown::Write).unwrap(),
            None => drop(theirs),
        }
        wait_link_down(&mut driver);
        send(&mut driver, PLAIN, b"out");
    }
}

#[test]
fn a_slow_program_delays_frames_and_loses_none() {
    let (mut driver, mut theirs) = card();
    // More than the socket takes, of a length that it will take a part of.
    let frame = driver.place(&[&PLAIN[..], &pattern(5, 30_000)].concat());
    let mut heads = 0;
    for _ in 0..60 {
        driver.submit(TRANSMIT, &[Part::Readable(frame, 30_012)]);
        heads += 1;
    }
    driver.kick(TRANSMIT);
    for _ in 0..heads {
        assert!(arrived(&mut theirs) == pattern(5, 30_000));
    }
    for _ in 0..heads {
        driver.wait_used(TRANSMIT);
    }
    assert_eq!(driver.transport.stats().errors.get(), 0);
}

#[test]
fn the_rest_of_a_frame_follows_without_another_and_through_a_reset() {
    let (mut driver, mut theirs) = card();
    let frame = driver.place(&[&PLAIN[..], &pattern(6, 60_000)].concat());
    let mut taken = 0;
    // One by one, until the socket is full: the last that was taken is there in part, or the next one waits.
    loop {
        driver.submit(TRANSMIT, &[Part::Readable(frame, 60_012)]);
        driver.kick(TRANSMIT);
        driver.transport.pause();
        driver.transport.resume();
        match driver.used(TRANSMIT) {
            Some(_) => taken += 1,
            None => break,
        }
    }
    driver.initialise(u64::MAX);
    for _ in 0..taken {
        assert!(arrived(&mut theirs) == pattern(6, 60_000));
    }
    send(&mut driver, PLAIN, b"after the reset");
    // The one that was not taken when it was looked for may have been before the reset.
    let next = arrived(&mut theirs);
    let next = if next == pattern(6, 60_000) { arrived(&mut theirs) } else { next };
    assert!(next == b"after the reset", "{} bytes", next.len());
}

#[test]
fn what_is_no_frame_is_dropped_and_the_next_one_leaves() {
    let (mut driver, mut theirs) = card();
    let packet = driver.place(&[0; 72]);
    let end = MEMORY_SIZE as u64;
    let hostile: [&[Part]; 4] = [
        &[Part::Readable(packet, 11)],
        &[Part::Readable(end - 71, 72)],
        &[Part::Writable(packet, 72)],
        &[Part::Readable(1 << 20, 65_536 + 12)],
    ];
    for (index, parts) in hostile.into_iter().enumerate() {
        assert_eq!(driver.request(TRANSMIT, parts), 0);
        assert_eq!(driver.transport.stats().errors.get(), index as u64 + 1);
    }
    send(&mut driver, PLAIN, b"good");
    assert_eq!(arrived(&mut theirs), b"good");
    assert!(link_is_up(&mut driver));
}

#[test]
fn a_stream_has_no_offloads() {
    let (mut driver, _theirs) = card();
    for feature in [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4] {
        assert_eq!(driver.offered() & bit(feature), 0);
    }
    assert_ne!(driver.offered() & bit(VIRTIO_NET_F_MRG_RXBUF), 0);
}

#[test]
fn a_card_on_a_stream_needs_no_call_that_its_filter_forbids() {
    let (net, mut theirs) = net();
    let confine = Filters::new(true).unwrap().confine(ThreadKind::Net);
    let mut driver = Driver::confined(Box::new(net), &[(GuestAddress(0), MEMORY_SIZE)], confine);
    driver.initialise(u64::MAX);
    let frame = driver.place(&[&PLAIN[..], &pattern(7, 60_000)].concat());
    for _ in 0..20 {
        driver.submit(TRANSMIT, &[Part::Readable(frame, 60_012)]);
    }
    driver.kick(TRANSMIT);
    let buffer = post(&mut driver, 2000);
    driver.kick(RECEIVE);
    theirs.write_all(&framed(b"in")).unwrap();
    for _ in 0..20 {
        arrived(&mut theirs);
    }
    assert_eq!(&receive(&mut driver, &[buffer]).0[12..], b"in");
    drop(theirs);
    wait_link_down(&mut driver);
}

#[test]
fn what_is_no_connected_stream_socket_is_refused() {
    let refusal = |fd| HostEnd::open(&NetHost::Socket(Socket { fd })).err().expect("it is refused");
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert!(matches!(refusal(datagram.as_raw_fd()), NetError::NotAStream(_)));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    assert!(matches!(refusal(client.as_raw_fd()), NetError::NotAStream(_)));
    let null = std::fs::File::open("/dev/null").unwrap();
    for fd in [null.as_raw_fd(), 1 << 20] {
        assert!(matches!(refusal(fd), NetError::NotASocket { .. }));
    }
    let (stream, _other) = UnixStream::pair().unwrap();
    assert!(HostEnd::open(&NetHost::Socket(Socket { fd: stream.as_raw_fd() })).is_ok());
}
