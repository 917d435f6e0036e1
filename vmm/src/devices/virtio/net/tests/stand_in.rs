//! The card with a packet socket in the tap's place: what it does with chains and buffers, hostile ones too.

use std::os::unix::net::UnixDatagram;

use rvm_config::MacAddress;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};

use super::{PLAIN, RECEIVE, TRANSMIT, pattern, post, receive, send};
use crate::bus::BusDevice;
use crate::devices::virtio::net::offload::bit;
use crate::devices::virtio::net::{HostEnd, Net, Tap};
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, PATIENCE, Part};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
/// All features but mergeable buffers.
const NO_MERGING: u64 = !bit(VIRTIO_NET_F_MRG_RXBUF);

/// A card whose driver took `features`, and the far end of its cable.
fn card(features: u64) -> (Driver, UnixDatagram) {
    let (tap, far_end) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    far_end.set_read_timeout(Some(PATIENCE)).unwrap();
    let net = Net::new(HostEnd::Tap(Tap::stand_in(tap.into())), MAC, Some(9000), true);
    (Driver::start(Box::new(net), features), far_end)
}

fn arrived(far_end: &UnixDatagram) -> Vec<u8> {
    let mut packet = vec![0; 70_000];
    let length = far_end.recv(&mut packet).unwrap();
    packet.truncate(length);
    packet
}

fn errors(driver: &Driver) -> u64 {
    driver.transport.stats().errors.get()
}

#[test]
fn the_configuration_tells_address_link_and_mtu() {
    let (mut driver, _far_end) = card(u64::MAX);
    let mut config = [0; 12];
    driver.transport.read(0x100, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0x28, 0x23]);
    assert_ne!(driver.offered() & bit(VIRTIO_NET_F_MTU), 0);
}

#[test]
fn a_packet_leaves_however_it_lies_in_memory() {
    let (mut driver, far_end) = card(u64::MAX);
    let packet = [&PLAIN[..], &pattern(1, 100)].concat();
    let address = driver.place(&packet);
    for cuts in [vec![], vec![12], vec![5], vec![1, 2, 3, 12, 13, 60], vec![11, 111]] {
        let ends = cuts.iter().copied().chain([112]);
        let starts = [0].into_iter().chain(cuts.clone());
        let parts: Vec<_> =
            starts.zip(ends).map(|(from, to)| Part::Readable(address + u64::from(from), to - from)).collect();
        driver.request(TRANSMIT, &parts);
        assert_eq!(arrived(&far_end), packet, "cut at {cuts:?}");
    }
    let stats = driver.transport.stats();
    assert_eq!((stats.operations.get(), stats.bytes_out.get(), stats.errors.get()), (5, 500, 0));
}

#[test]
fn what_is_no_packet_is_dropped_and_counted_and_the_next_one_leaves() {
    let (mut driver, far_end) = card(!bit(VIRTIO_NET_F_HOST_TSO4));
    let packet = driver.place(&[&PLAIN[..], &pattern(2, 60)].concat());
    let tso = driver.place(&[&[1, 1][..], &[0; 70]].concat());
    let end = MEMORY_SIZE as u64;
    let hostile: [&[Part]; 10] = [
        &[Part::Readable(packet, 0)],
        &[Part::Readable(packet, 11)],
        &[Part::Readable(end, 72)],
        &[Part::Readable(end - 71, 72)],
        &[Part::Readable(u64::MAX - 10, 72)],
        &[Part::Writable(packet, 72)],
        &[Part::Readable(packet, 12), Part::Writable(packet, 60)],
        &[Part::Readable(1 << 20, 65_562 + 13)],
        &[Part::Readable(1 << 20, u32::MAX), Part::Readable(1 << 20, u32::MAX)],
        &[Part::Readable(tso, 72)],
    ];
    for (index, parts) in hostile.into_iter().enumerate() {
        assert_eq!(driver.request(TRANSMIT, parts), 0, "case {index}");
        assert_eq!(errors(&driver), index as u64 + 1, "case {index}");
    }
    send(&mut driver, PLAIN, b"good");
    assert_eq!(arrived(&far_end)[12..], *b"good");
}

#[test]
fn a_chain_that_loops_is_dropped() {
    let (mut driver, far_end) = card(u64::MAX);
    let packet = driver.place(&[0; 64]);
    // Every descriptor of the queue of 64, the last pointing at the first again.
    let parts = [Part::Readable(packet, 1); 64];
    driver.submit(TRANSMIT, &parts);
    let last_flags = vm_memory::GuestAddress(0x2_0000 + 63 * 16 + 12);
    vm_memory::Bytes::write_obj(&driver.memory, 1_u16, last_flags).unwrap();
    driver.kick(TRANSMIT);
    driver.wait_used(TRANSMIT);
    assert_eq!(errors(&driver), 1);
    send(&mut driver, PLAIN, b"good");
    assert_eq!(arrived(&far_end)[12..], *b"good");
}

#[test]
fn flags_that_a_driver_may_not_set_are_not_passed_on() {
    let (mut driver, far_end) = card(u64::MAX);
    let mut header = PLAIN;
    header[0] = 0xfe;
    send(&mut driver, header, b"frame");
    assert_eq!(arrived(&far_end)[0], 0);
}

#[test]
fn a_full_tap_delays_packets_and_loses_none() {
    let (mut driver, far_end) = card(u64::MAX);
    // More than the socket takes: each has its number in the frame.
    let headers: Vec<_> = (0..60).map(|number| driver.place(&[&PLAIN[..], &[number]].concat())).collect();
    let mut sent = 0;
    for round in 0..20 {
        for header in &headers {
            driver.submit(TRANSMIT, &[Part::Readable(*header, 13)]);
        }
        driver.kick(TRANSMIT);
        sent += headers.len();
        for number in 0..60 {
            assert_eq!(arrived(&far_end)[12], number, "round {round}");
        }
        for _ in &headers {
            driver.wait_used(TRANSMIT);
        }
    }
    let stats = driver.transport.stats();
    assert_eq!((stats.operations.get(), stats.errors.get()), (sent as u64, 0));
}

#[test]
fn a_packet_comes_in_with_the_number_of_its_buffers() {
    for features in [u64::MAX, NO_MERGING] {
        let (mut driver, far_end) = card(features);
        let buffer = post(&mut driver, 2000);
        driver.kick(RECEIVE);
        far_end.send(&[&PLAIN[..], &pattern(3, 1514)].concat()).unwrap();
        let (packet, buffers) = receive(&mut driver, &[buffer]);
        assert_eq!((&packet[12..], buffers), (&pattern(3, 1514)[..], 1));
        assert_eq!(driver.transport.stats().bytes_in.get(), 1514);
    }
}

#[test]
fn a_long_packet_fills_several_buffers() {
    let (mut driver, far_end) = card(u64::MAX);
    let buffers: Vec<_> = (0..50).map(|_| post(&mut driver, 1500)).collect();
    driver.kick(RECEIVE);
    let mut taken = 0;
    for (length, expected) in [(65_562, 44), (1488, 1), (1489, 2)] {
        let frame = pattern(4, length);
        far_end.send(&[&PLAIN[..], &frame].concat()).unwrap();
        let (packet, count) = receive(&mut driver, &buffers[taken..]);
        assert_eq!((&packet[12..], count), (&frame[..], expected));
        taken += count;
    }
}

#[test]
fn a_packet_waits_for_the_buffers_that_it_needs() {
    let (mut driver, far_end) = card(u64::MAX);
    let first = post(&mut driver, 1500);
    driver.kick(RECEIVE);
    let frame = pattern(5, 4000);
    far_end.send(&[&PLAIN[..], &frame].concat()).unwrap();
    far_end.send(&[&PLAIN[..], b"next"].concat()).unwrap();
    // By the time that this one has left, the card has seen the other two.
    send(&mut driver, PLAIN, b"out");
    assert_eq!(driver.used(RECEIVE), None);

    let buffers = [first, post(&mut driver, 1500), post(&mut driver, 1500), post(&mut driver, 1500)];
    driver.kick(RECEIVE);
    let (packet, count) = receive(&mut driver, &buffers);
    assert_eq!((&packet[12..], count), (&frame[..], 3));
    let (packet, _) = receive(&mut driver, &buffers[3..]);
    assert_eq!(&packet[12..], b"next");
    assert_eq!(errors(&driver), 0);
}

#[test]
fn a_packet_that_waits_survives_a_pause_and_not_a_reset() {
    let (mut driver, far_end) = card(u64::MAX);
    post(&mut driver, 1500);
    driver.kick(RECEIVE);
    let frame = pattern(6, 2000);
    far_end.send(&[&PLAIN[..], &frame].concat()).unwrap();
    send(&mut driver, PLAIN, b"out");
    driver.transport.pause();
    driver.transport.resume();
    send(&mut driver, PLAIN, b"out");
    driver.initialise(u64::MAX);
    assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 15);

    let buffers = [post(&mut driver, 1500), post(&mut driver, 1500)];
    driver.kick(RECEIVE);
    far_end.send(&[&PLAIN[..], b"new"].concat()).unwrap();
    let (packet, _) = receive(&mut driver, &buffers);
    assert_eq!(&packet[12..], b"new");

    far_end.send(&[&PLAIN[..], &frame].concat()).unwrap();
    send(&mut driver, PLAIN, b"out");
    driver.transport.pause();
    let third = post(&mut driver, 1500);
    driver.transport.resume();
    let (packet, count) = receive(&mut driver, &[buffers[1], third]);
    assert_eq!((&packet[12..], count), (&frame[..], 2));
}

#[test]
fn a_packet_that_will_never_fit_is_dropped_and_the_next_comes_in() {
    // Without merging one buffer must do; with it, a whole ring of tiny ones is all a driver can give.
    for (features, count, length) in [(NO_MERGING, 1, 1500), (u64::MAX, 64, 20)] {
        let (mut driver, far_end) = card(features);
        let buffers: Vec<_> = (0..count).map(|_| post(&mut driver, length)).collect();
        driver.kick(RECEIVE);
        far_end.send(&[&PLAIN[..], &pattern(7, 2000)].concat()).unwrap();
        far_end.send(&[&PLAIN[..], b"small"].concat()).unwrap();
        let (packet, _) = receive(&mut driver, &buffers);
        assert_eq!(&packet[12..], b"small");
        assert_eq!(errors(&driver), 1);
    }
}

#[test]
fn buffers_that_cannot_be_filled_are_returned_empty_in_their_turn() {
    let end = MEMORY_SIZE as u64;
    for features in [u64::MAX, NO_MERGING] {
        let (mut driver, far_end) = card(features);
        let hostile = [
            Part::Writable(1 << 20, 0),
            Part::Writable(1 << 20, 11),
            Part::Writable(end, 2000),
            Part::Writable(end - 100, 2000),
            Part::Readable(1 << 20, 2000),
        ];
        let good = post(&mut driver, 2000);
        for part in hostile {
            driver.submit(RECEIVE, &[part]);
        }
        let last = post(&mut driver, 2000);
        driver.kick(RECEIVE);
        for (frame, buffer) in [(b"one", good), (b"two", last)] {
            far_end.send(&[&PLAIN[..], frame].concat()).unwrap();
            let (packet, _) = receive(&mut driver, &[buffer]);
            assert_eq!(&packet[12..], frame);
            for _ in hostile.iter().filter(|_| buffer == good) {
                assert_eq!(driver.wait_used(RECEIVE).1, 0);
            }
        }
        assert_eq!(errors(&driver), 5);
    }
}

#[test]
fn a_checksum_known_to_be_right_is_told_only_to_a_driver_that_asked() {
    for (features, flags) in [(u64::MAX, 2), (!bit(VIRTIO_NET_F_GUEST_CSUM), 0)] {
        let (mut driver, far_end) = card(features);
        let buffer = post(&mut driver, 100);
        driver.kick(RECEIVE);
        far_end.send(&[&[2][..], &[0; 31]].concat()).unwrap();
        assert_eq!(receive(&mut driver, &[buffer]).0[0], flags);
    }
}

#[test]
fn packets_without_buffers_do_not_keep_the_worker_awake() {
    let (mut driver, far_end) = card(u64::MAX);
    for _ in 0..3 {
        far_end.send(&PLAIN).unwrap();
    }
    send(&mut driver, PLAIN, b"first");
    // The packets may have woken the worker for it, and its kick come after.
    while driver.transport.stats().kicks.get() < 1 {
        std::thread::yield_now();
    }
    let before = driver.transport.stats().wakeups.get();
    for _ in 0..10 {
        send(&mut driver, PLAIN, b"more");
    }
    // One for each kick, none for the packets that wait.
    assert_eq!(driver.transport.stats().wakeups.get() - before, 10);
    assert_eq!(driver.transport.stats().kicks.get(), 11);
}

#[test]
fn a_flood_of_packets_passes_a_tiny_ring_in_order_and_through_pauses() {
    let (mut driver, far_end) = card(u64::MAX);
    let buffer = driver.allocate(64);
    let flood = std::thread::spawn(move || {
        for number in 0..2000_u32 {
            far_end.send(&[&PLAIN[..], &number.to_le_bytes()].concat()).unwrap();
        }
        far_end
    });
    for number in 0..2000_u32 {
        driver.submit(RECEIVE, &[Part::Writable(buffer, 64)]);
        driver.kick(RECEIVE);
        if number % 100 == 50 {
            driver.transport.pause();
            driver.transport.resume();
        }
        assert_eq!(driver.wait_used(RECEIVE).1, 16);
        assert_eq!(driver.bytes(buffer + 12, 4), number.to_le_bytes());
    }
    flood.join().unwrap();
}

#[test]
fn resets_under_a_flood_both_ways_leave_a_card_that_works() {
    let (mut driver, far_end) = card(u64::MAX);
    far_end.set_nonblocking(true).unwrap();
    let buffer = driver.allocate(2048);
    let packet = driver.place(&[0; 100]);
    for _ in 0..50 {
        for _ in 0..32 {
            driver.submit(TRANSMIT, &[Part::Readable(packet, 100)]);
            driver.submit(RECEIVE, &[Part::Writable(buffer, 2048)]);
            // A full socket is as good a flood.
            far_end.send(&[0; 1000]).ok();
        }
        driver.kick(TRANSMIT);
        driver.kick(RECEIVE);
        driver.initialise(u64::MAX);
        while far_end.recv(&mut [0; 2048]).is_ok() {}
    }
    send(&mut driver, PLAIN, b"alive");
    assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 15);
}

#[test]
fn queues_that_were_not_set_up_ask_for_a_reset() {
    let (tap, _far_end) = UnixDatagram::pair().unwrap();
    let mut driver =
        Driver::new(Box::new(Net::new(HostEnd::Tap(Tap::stand_in(tap.into())), MAC, None, false)));
    for status in [1, 3] {
        driver.set_register(VIRTIO_MMIO_STATUS, status);
    }
    driver.set_register(0x24, 1);
    driver.set_register(0x20, 1);
    for status in [11, 15] {
        driver.set_register(VIRTIO_MMIO_STATUS, status);
    }
    driver.wait_needs_reset();
}
