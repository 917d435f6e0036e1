//! A guest that breaks the rules harms itself alone.

use super::*;
use crate::devices::virtio::vsock::transmit::MOST_REPLIES;

/// A guest with a connection to a program.
fn connected(directory: &Directory) -> (Guest, Ports, UnixStream) {
    let program = directory.listen(52);
    let mut guest = Guest::start(directory);
    let (ports, stream) = guest.connect(&program, 52, 1);
    (guest, ports, stream)
}

/// The connection is as good as ever.
fn assert_alive(guest: &mut Guest, ports: Ports, stream: &mut UnixStream) {
    guest.send_data(ports, b"alive");
    assert_eq!(read_exact(stream, 5), b"alive");
    stream.write_all(b"and well").unwrap();
    guest.until(ports, |socket| socket.inbox.len() == 8);
    guest.inbox(ports);
}

#[test]
fn packets_without_a_connection_are_answered_with_reset() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let ports = Ports { host: 1, guest: 2 };
    for op in [Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest] {
        guest.send(&packet(ports, op), &[]);
        guest.step();
        assert_eq!(guest.strays.pop(), Some(packet(ports, op).reset()));
    }
    guest.send(&packet(ports, Op::Reset), &[]);
    guest.send(&packet(ports, Op::Data), &[]);
    guest.step();
    assert_eq!(guest.strays.len(), 1, "a reset is not answered");
}

#[test]
fn a_forged_sender_is_ignored() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let errors = guest.stats.errors.get();
    for (src_cid, op) in [(u64::from(CID) + 1, Op::Reset), (HOST_CID, Op::Data), (u64::MAX, Op::Request)] {
        guest.send(&Header { src_cid, ..packet(ports, op) }, &[]);
    }
    assert_eq!(guest.stats.errors.get(), errors + 3);
    assert_alive(&mut guest, ports, &mut stream);
}

#[test]
fn another_machine_or_socket_type_is_refused() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let seqpacket = Header { kind: 2, ..packet(ports, Op::Request) };
    guest.send(&seqpacket, &[]);
    guest.step();
    assert!(guest.sockets[&ports].reset, "of the type that was asked for");
    guest.sockets.get_mut(&ports).unwrap().reset = false;

    let elsewhere = Header { dst_cid: 77, ..packet(ports, Op::Request) };
    guest.send(&elsewhere, &[]);
    let (head, length) = guest.driver.wait_used(RECEIVE);
    let bytes = guest.driver.bytes(guest.buffers[&head], length as usize);
    assert_eq!(Header::from_bytes(bytes.first_chunk().unwrap()), elsewhere.reset());
    assert_alive(&mut guest, ports, &mut stream);
}

#[test]
fn operations_out_of_turn_end_the_connection() {
    let bogus = [0, 8, u16::MAX].map(|op| Header { op, ..Header::default() });
    let out_of_turn = [Op::Request, Op::Response].map(|op| Header { op: op as u16, ..Header::default() });
    for header in bogus.into_iter().chain(out_of_turn) {
        let directory = Directory::new();
        let (mut guest, ports, mut stream) = connected(&directory);
        guest.send(&Header { op: header.op, ..packet(ports, Op::Data) }, &[]);
        guest.until(ports, |socket| socket.reset);
        assert_eq!(read_to_end(&mut stream), b"");
    }
}

#[test]
fn data_after_the_end_of_data_ends_the_connection() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    guest.shutdown(ports, crate::devices::virtio::vsock::packet::NO_SEND);
    guest.send_data(ports, b"one more thing");
    guest.until(ports, |socket| socket.reset);
    assert_eq!(read_to_end(&mut stream), b"");
}

#[test]
fn data_before_the_answer_ends_the_call() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let mut program = directory.call("CONNECT 1\n");
    let (request, _) = guest.receive();
    let ports = Ports { host: request.src_port, guest: request.dst_port };
    guest.send(&Header { len: 3, ..packet(ports, Op::Data) }, b"now");
    guest.step();
    assert_eq!(guest.strays.len(), 1);
    assert_eq!(read_to_end(&mut program), b"");
}

#[test]
fn a_packet_shorter_than_it_says_is_dropped() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let errors = guest.stats.errors.get();
    for len in [6, 4096, u32::MAX] {
        guest.send(&Header { len, ..packet(ports, Op::Data) }, b"short");
    }
    assert_eq!(guest.stats.errors.get(), errors + 3);
    assert_alive(&mut guest, ports, &mut stream);
}

#[test]
fn a_packet_longer_than_it_says_is_taken_as_it_says() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    guest.send(&Header { len: 2, ..packet(ports, Op::Data) }, b"yes, but");
    guest.sockets.get_mut(&ports).unwrap().sent += 2;
    assert_eq!(read_exact(&mut stream, 2), b"ye");
    assert_alive(&mut guest, ports, &mut stream);
}

#[test]
fn chains_that_are_no_packets_are_dropped() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let errors = guest.stats.errors.get();
    let at = guest.driver.place(&packet(ports, Op::Reset).to_bytes());
    let outside = 1 << 40;
    let broken: [&[Part]; 5] = [
        &[Part::Readable(at, 43)],
        &[Part::Writable(at, 44)],
        &[Part::Readable(outside, 44)],
        &[Part::Readable(at, 40), Part::Readable(u64::MAX - 1, 4)],
        &[Part::Readable(at, 0), Part::Readable(at, u32::MAX)],
    ];
    for parts in broken {
        assert_eq!(guest.driver.request(TRANSMIT, parts), 0);
    }
    assert_eq!(guest.stats.errors.get(), errors + 5);
    assert_alive(&mut guest, ports, &mut stream);
}

#[test]
fn a_header_in_many_pieces_is_understood() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let mut bytes = Header { len: 3, ..packet(ports, Op::Data) }.to_bytes().to_vec();
    bytes.extend_from_slice(b"bit");
    let at = guest.driver.place(&bytes);
    let parts: Vec<_> = (0..bytes.len() as u64).map(|offset| Part::Readable(at + offset, 1)).collect();
    guest.driver.request(TRANSMIT, &parts);
    assert_eq!(read_exact(&mut stream, 3), b"bit");
}

#[test]
fn buffers_without_room_for_data_go_back() {
    let directory = Directory::new();
    let mut guest = Guest::without_buffers(directory.open().unwrap());
    let at = guest.driver.allocate(64);
    let small = [Part::Writable(at, 0), Part::Writable(at, 44), Part::Readable(at, 64)];
    let heads = small.map(|part| guest.driver.submit(RECEIVE, &[part]));
    guest.give_buffers();
    guest.send(&packet(Ports::default(), Op::Data), &[]);
    for head in heads {
        assert_eq!(guest.driver.wait_used(RECEIVE), (head, 0));
    }
    guest.step();
    assert_eq!(guest.strays.len(), 1);
}

#[test]
fn lies_about_credit_do_no_harm() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    for (buf_alloc, fwd_cnt) in [(u32::MAX, 0), (u32::MAX, u32::MAX), (0, u32::MAX), (1 << 31, 1 << 31)] {
        guest.send(&Header { buf_alloc, fwd_cnt, ..packet(ports, Op::CreditUpdate) }, &[]);
        stream.write_all(&[1; 10_000]).unwrap();
    }
    // Told the truth again, the device sends the rest.
    guest.send_op(ports, Op::CreditUpdate);
    guest.until(ports, |socket| socket.inbox.len() == 40_000);
}

#[test]
fn replies_wait_in_bounds_for_buffers_and_none_is_lost() {
    let directory = Directory::new();
    let mut guest = Guest::without_buffers(directory.open().unwrap());
    let (flood, mut taken) = (MOST_REPLIES + 100, 0);
    let at = guest.driver.place(&packet(Ports::default(), Op::Data).to_bytes());
    let mut submitted = 0;
    while taken < MOST_REPLIES {
        if submitted < flood && submitted - taken < 60 {
            guest.driver.submit(TRANSMIT, &[Part::Readable(at, 44)]);
            guest.driver.kick(TRANSMIT);
            submitted += 1;
        } else {
            guest.driver.wait_used(TRANSMIT);
            taken += 1;
        }
    }
    assert_eq!(guest.driver.used(TRANSMIT), None, "with so many replies waiting, packets wait too");
    guest.give_buffers();
    for _ in 0..submitted {
        guest.step();
    }
    assert_eq!(guest.strays.len(), submitted);
}

#[test]
fn a_header_that_changes_while_it_is_read_is_read_once() {
    let directory = Directory::new();
    let (mut guest, ports, stream) = connected(&directory);
    let reader = std::thread::spawn(move || {
        let mut stream = stream;
        read_to_end(&mut stream).len() as u64
    });
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (memory, at) = (guest.driver.memory.clone(), guest.header_at + 24);
    let racer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                for len in [1_u32, 1000, 0, u32::MAX] {
                    memory.write_obj(len, GuestAddress(at)).unwrap();
                }
            }
        }
    });
    for _ in 0..2000 {
        guest.send(&Header { len: 1, ..packet(ports, Op::Data) }, &[5; 1000]);
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    guest.shutdown(ports, NO_MORE);
    assert_eq!(reader.join().unwrap(), guest.stats.bytes_out.get());
}

#[test]
fn an_idle_guest_that_gives_no_buffers_lets_the_device_sleep() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (no_credit, mut first) = guest.connect(&program, 52, 1);
    let (_no_buffers, mut second) = guest.connect(&program, 52, 2);
    guest.send(&packet(no_credit, Op::CreditUpdate), &[]);
    guest.keep_buffers();
    for _ in 0..BUFFERS {
        second.write_all(b"x").unwrap();
        guest.driver.wait_used(RECEIVE);
    }
    // Both programs have something to say, to a guest that does not listen; a reply waits as well.
    first.write_all(&[1; 1000]).unwrap();
    second.write_all(&[2; 1000]).unwrap();
    guest.send(&packet(Ports::default(), Op::Data), &[]);
    let before = guest.stats.wakeups.get();
    for _ in 0..50 {
        guest.send(&packet(no_credit, Op::CreditUpdate), &[]);
    }
    let woken = guest.stats.wakeups.get() - before;
    assert!(woken <= 110, "{woken} wake-ups for 50 kicks");
}
