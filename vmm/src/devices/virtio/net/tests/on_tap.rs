//! The card on a real tap: what the host's network gets and gives.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_MRG_RXBUF};

use super::{PLAIN, RECEIVE, TRANSMIT, cannot_run, in_namespace, ip, pattern, post, receive, send};
use crate::bus::BusDevice;
use crate::devices::virtio::net::Net;
use crate::devices::virtio::net::offload::bit;
use crate::devices::virtio::testing::{Driver, PATIENCE, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];
/// An EtherType for experiments (IEEE 802), which no protocol of the host answers.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Bytes in front of the data of a UDP packet: virtio, Ethernet, IP and UDP headers.
const UDP_DATA: usize = 12 + 14 + 20 + 8;

/// The driver of a card on `tap0`, which took `features`.
fn card(features: u64) -> Driver {
    let net = Net::open(&"tap0,mac=02:00:00:00:00:01".parse().unwrap()).unwrap();
    // A tap that goes up while connected takes packets at once; connected later, when the kernel gets to it.
    ip("link set tap0 up").unwrap();
    let mut driver = Driver::start(Box::new(net), features);
    // Once a packet is out, the tap knows what the driver took.
    send(&mut driver, PLAIN, &[0; 60]);
    driver
}

/// Hears all that passes the namespace's interfaces.
fn listener() -> OwnedFd {
    let all = SockProtocol::EthAll;
    let listener = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).unwrap();
    let patience = nix::sys::time::TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap(), 0);
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience).unwrap();
    listener
}

/// The next frame that `listener` hears from the card.
fn heard(listener: &OwnedFd) -> Vec<u8> {
    let mut frame = vec![0; 70_000];
    loop {
        let length = recv(listener.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        if frame[6..12] == MAC {
            return frame[..length].to_vec();
        }
    }
}

/// A UDP socket of the host that sends to the guest, 192.0.2.2.
fn host_socket() -> UdpSocket {
    ip("address add 192.0.2.1/24 dev tap0").unwrap();
    ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:01 dev tap0").unwrap();
    let host = UdpSocket::bind("192.0.2.1:7").unwrap();
    host.connect("192.0.2.2:9").unwrap();
    host
}

/// Waits for the next UDP packet in `buffers`, and posts those that others took (the host's own chatter) again.
fn receive_udp(driver: &mut Driver, buffers: &mut Vec<(u64, u32)>) -> (Vec<u8>, usize) {
    loop {
        let addresses: Vec<_> = buffers.iter().map(|(address, _)| *address).collect();
        let (packet, count) = receive(driver, &addresses);
        let used: Vec<_> = buffers.drain(..count).collect();
        for (address, length) in used {
            driver.submit(RECEIVE, &[Part::Writable(address, length)]);
            buffers.push((address, length));
        }
        driver.kick(RECEIVE);
        if packet[24..26] == [8, 0] && packet[12 + 14 + 9] == 17 {
            return (packet, count);
        }
    }
}

#[test]
fn a_packet_of_the_guest_appears_on_the_tap() {
    in_namespace(|| {
        let mut driver = card(u64::MAX);
        let listener = listener();
        let frame = [&BROADCAST[..], &MAC, &EXPERIMENT, &pattern(1, 100)].concat();
        send(&mut driver, PLAIN, &frame);
        assert_eq!(heard(&listener), frame);
    });
}

#[test]
fn a_packet_to_be_segmented_reaches_the_host_whole() {
    in_namespace(|| {
        let mut driver = card(u64::MAX);
        let listener = listener();
        let frame = tcp_frame(60_000);
        // NEEDS_CSUM, TCPV4, 54 bytes of headers, segments of 1448, checksum of what follows 34 at 16.
        let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        send(&mut driver, header, &frame);
        assert_eq!(heard(&listener).len(), frame.len());
        assert_eq!(driver.transport.stats().errors.get(), 0);
    });
}

#[test]
fn what_the_kernel_refuses_is_dropped_and_counted() {
    in_namespace(|| {
        let mut driver = card(u64::MAX);
        let listener = listener();
        let frame = tcp_frame(1000);
        for (index, header) in [
            [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0],
            [1, 1, 54, 0, 0xa8, 5, 0xff, 0xff, 16, 0, 0, 0],
            [1, 0, 0xff, 0xff, 0, 0, 34, 0, 16, 0, 0, 0],
        ]
        .into_iter()
        .enumerate()
        {
            send(&mut driver, header, &frame);
            assert_eq!(driver.transport.stats().errors.get(), index as u64 + 1);
        }
        send(&mut driver, PLAIN, &frame);
        assert_eq!(heard(&listener), frame);
    });
}

/// An IPv4 TCP segment with `length` bytes of data.
fn tcp_frame(length: u16) -> Vec<u8> {
    let [high, low] = (length + 40).to_be_bytes();
    let ip = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    let tcp = [0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    [&BROADCAST[..], &MAC, &[8, 0], &ip, &tcp, &pattern(2, length.into())].concat()
}

#[test]
fn a_packet_of_the_host_reaches_the_guest_with_and_without_merging() {
    for features in [u64::MAX, !bit(VIRTIO_NET_F_MRG_RXBUF), 0] {
        in_namespace(move || {
            let mut driver = card(features);
            let host = host_socket();
            let mut buffers: Vec<_> = (0..8).map(|_| (post(&mut driver, 2000), 2000)).collect();
            driver.kick(RECEIVE);
            host.send(b"to the guest").unwrap();
            let (packet, count) = receive_udp(&mut driver, &mut buffers);
            assert_eq!((&packet[UDP_DATA..], count), (&b"to the guest"[..], 1));
            assert_eq!(packet[12..18], MAC);
        });
    }
}

#[test]
fn segments_of_the_host_come_as_one_packet_in_many_buffers_where_the_driver_takes_them() {
    in_namespace(|| {
        let mut driver = card(u64::MAX);
        let host = host_socket();
        setsockopt(&host, sockopt::UdpGsoSegment, &1000).unwrap();
        if driver.offered() & bit(VIRTIO_NET_F_GUEST_USO4) == 0 {
            return cannot_run("taps of this kernel do not segment UDP (Linux 6.2)");
        }
        let mut buffers: Vec<_> = (0..60).map(|_| (post(&mut driver, 1526), 1526)).collect();
        driver.kick(RECEIVE);
        let data = pattern(3, 60_000);
        host.send(&data).unwrap();
        let (packet, count) = receive_udp(&mut driver, &mut buffers);
        assert_eq!((packet.len(), count), (UDP_DATA + 60_000, 40));
        assert!(packet[UDP_DATA..] == data, "the data is what was sent");
        assert_eq!(packet[1], 5, "UDP_L4");
    });
}

#[test]
fn segments_of_the_host_come_apart_where_the_driver_does_not_take_them() {
    in_namespace(|| {
        let mut driver = card(0);
        let host = host_socket();
        setsockopt(&host, sockopt::UdpGsoSegment, &1000).unwrap();
        let mut buffers: Vec<_> = (0..60).map(|_| (post(&mut driver, 1526), 1526)).collect();
        driver.kick(RECEIVE);
        let data = pattern(4, 3000);
        host.send(&data).unwrap();
        for part in data.chunks(1000) {
            let (packet, _) = receive_udp(&mut driver, &mut buffers);
            assert!(packet[UDP_DATA..] == *part);
            assert_eq!(packet[..2], [0, 0], "nothing is left to the driver");
        }
    });
}

#[test]
fn a_deleted_tap_pulls_the_cable_and_the_card_stays_usable() {
    in_namespace(|| {
        let mut driver = card(u64::MAX);
        // More than the host's own chatter takes: a tap is watched while there are buffers.
        for _ in 0..32 {
            post(&mut driver, 2000);
        }
        driver.kick(RECEIVE);
        ip("link delete tap0").unwrap();
        let mut status = [1; 2];
        while status != [0, 0] {
            driver.wait_interrupt();
            driver.transport.read(0x106, &mut status);
        }
        let (before, errors) =
            (driver.transport.stats().wakeups.get(), driver.transport.stats().errors.get());
        for _ in 0..10 {
            send(&mut driver, PLAIN, &[0; 60]);
        }
        assert_eq!(driver.transport.stats().errors.get() - errors, 10);
        // Kicks, and at most the one go-round that followed the loss.
        assert!(driver.transport.stats().wakeups.get() - before <= 11);
        driver.initialise(u64::MAX);
        driver.submit(TRANSMIT, &[Part::Readable(1 << 20, 60)]);
        driver.kick(TRANSMIT);
        driver.wait_used(TRANSMIT);
    });
}
