//! Data both ways, and what holds it back.

use std::thread;

use super::*;
use crate::devices::virtio::vsock::table::MOST_CONNECTIONS;

/// A program that sends back whatever it receives.
fn echo(mut stream: UnixStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut bytes = vec![0; 50_000];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..count]).unwrap();
        }
    })
}

/// Sends `bytes` to an echo and takes them back, as a program does that reads and writes at the same time.
fn through_echo(guest: &mut Guest, ports: Ports, bytes: &[u8]) {
    let (mut sent, mut echoed) = (0, Vec::new());
    while echoed.len() < bytes.len() {
        let credit = guest.sockets[&ports].credit() as usize;
        let most = credit.min(bytes.len() - sent).min(MOST_DATA);
        if most > 0 {
            guest.send_data(ports, &bytes[sent..sent + most]);
            sent += most;
        } else {
            guest.step();
        }
        echoed.append(&mut guest.inbox(ports));
    }
    assert!(echoed == bytes, "what came back is what was sent");
}

#[test]
fn megabytes_pass_both_ways_unchanged() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, stream) = guest.connect(&program, 52, 1);
    let echo = echo(stream);
    through_echo(&mut guest, ports, &noise(8 << 20, 1));
    guest.shutdown(ports, NO_MORE);
    guest.until(ports, |socket| socket.reset);
    echo.join().unwrap();
    assert_eq!((guest.stats.bytes_in.get(), guest.stats.bytes_out.get()), (8 << 20, 8 << 20));
}

#[test]
fn megabytes_pass_both_ways_on_a_call() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let mut program = directory.call("CONNECT 1\n");
    let ports = guest.answer();
    read_exact(&mut program, format!("OK {}\n", ports.host).len());
    let echo = echo(program);
    through_echo(&mut guest, ports, &noise(4 << 20, 2));
    guest.shutdown(ports, NO_MORE);
    guest.until(ports, |socket| socket.reset);
    echo.join().unwrap();
}

#[test]
fn a_guest_without_credit_is_asked_once_and_gets_nothing_more() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let ports = guest.request(52, 1, 1000);
    guest.until(ports, |socket| socket.open);
    let (mut stream, _) = program.accept().unwrap();
    let bytes = noise(2500, 3);
    stream.write_all(&bytes).unwrap();

    guest.until(ports, |socket| socket.asked);
    assert_eq!(guest.inbox(ports), bytes[..1000]);
    guest.send_op(ports, Op::CreditUpdate);
    guest.until(ports, |socket| socket.inbox.len() == 1000);
    assert_eq!(guest.inbox(ports), bytes[1000..2000]);
    guest.send_op(ports, Op::CreditUpdate);
    guest.until(ports, |socket| socket.inbox.len() == 500);
    assert_eq!(guest.inbox(ports), bytes[2000..]);
}

#[test]
fn credit_goes_on_where_the_counters_wrap() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 1);
    // The guest lies about what it has read: its window seems to begin just before the counter wraps.
    let lie = Header { buf_alloc: 10, fwd_cnt: u32::MAX - 4, ..packet(ports, Op::CreditUpdate) };
    guest.send(&lie, &[]);
    stream.write_all(&[7; 100]).unwrap();
    guest.until(ports, |socket| socket.asked);
    assert_eq!(guest.inbox(ports).len(), 5, "5 of the 10 are in flight, as the guest has it");
}

#[test]
fn a_guest_that_asks_for_credit_is_told() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 1);
    guest.send_data(ports, b"abc");
    read_exact(&mut stream, 3);
    guest.send_op(ports, Op::CreditRequest);
    guest.until(ports, |socket| socket.host_forwarded == 3);
}

/// Sends until the host has no credit left for the connection; gives how much that was.
fn fill(guest: &mut Guest, ports: Ports) -> usize {
    let mut sent = 0;
    loop {
        // What the device tells about credit, it tells before the answer to this.
        guest.send_op(ports, Op::CreditRequest);
        let told = guest.sockets[&ports].host_forwarded;
        guest.step();
        let credit = guest.sockets[&ports].credit() as usize;
        if credit == 0 && guest.sockets[&ports].host_forwarded == told {
            return sent;
        }
        let data = noise(credit.min(MOST_DATA), 4);
        if !data.is_empty() {
            guest.send_data(ports, &data);
            sent += data.len();
        }
    }
}

#[test]
fn a_program_that_never_reads_holds_up_itself_alone() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (stuck, mut stuck_stream) = guest.connect(&program, 52, 1);
    let (lively, lively_stream) = guest.connect(&program, 52, 2);
    let sent = fill(&mut guest, stuck);
    assert!(sent > 256 << 10, "the window and the socket are full");
    let echo = echo(lively_stream);
    through_echo(&mut guest, lively, &noise(1 << 20, 5));
    guest.shutdown(lively, NO_MORE);
    echo.join().unwrap();

    // Once it reads, it gets everything, and the guest may go on.
    assert_eq!(read_exact(&mut stuck_stream, sent).len(), sent);
    guest.until(stuck, |socket| socket.credit() > 128 << 10);
}

#[test]
fn a_guest_that_sends_without_credit_loses_the_connection() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, _stream) = guest.connect(&program, 52, 1);
    fill(&mut guest, ports);
    guest.send_data(ports, &[0]);
    guest.until(ports, |socket| socket.reset);
}

#[test]
fn buffers_of_odd_shapes_are_filled() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 1);
    guest.keep_buffers();
    // Everything is sent from here on in headers cut in two and data cut in three.
    let at = guest.driver.allocate(8 * 128);
    let shape = |at: u64| {
        [(0, 20), (32, 30), (64, 1), (96, 32)].map(|(offset, length)| Part::Writable(at + offset, length))
    };
    for _ in 0..BUFFERS {
        // The buffers that are left from before are used up first.
        stream.write_all(b"x").unwrap();
        guest.driver.wait_used(RECEIVE);
    }
    let heads: Vec<_> = (0..8).map(|index| guest.driver.submit(RECEIVE, &shape(at + index * 128))).collect();
    guest.driver.kick(RECEIVE);
    let bytes = noise(39 * 2 + 4, 6);
    stream.write_all(&bytes).unwrap();
    let mut received = Vec::new();
    for (index, head) in (0..).zip(&heads) {
        let (used, length) = guest.driver.wait_used(RECEIVE);
        assert_eq!(used, *head);
        let pieces = [(0, 20), (32, 30), (64, 1), (96, 32)];
        let packet: Vec<u8> = pieces
            .into_iter()
            .flat_map(|(offset, length)| guest.driver.bytes(at + index * 128 + offset, length))
            .collect();
        let header = Header::from_bytes(packet.first_chunk().unwrap());
        assert_eq!(
            (header.op(), header.src_port, header.dst_port),
            (Some(Op::Data), ports.host, ports.guest)
        );
        received.extend_from_slice(&packet[HEADER_SIZE..length as usize]);
        if received.len() == bytes.len() {
            break;
        }
    }
    assert_eq!(received, bytes);
}

#[test]
fn the_table_has_an_end_and_a_place_that_is_left_is_given_again() {
    let directory = Directory::new();
    let _program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let most = u32::try_from(MOST_CONNECTIONS).unwrap();
    for port in 0..most {
        let ports = guest.request(52, port, GUEST_WINDOW);
        guest.until(ports, |socket| socket.open);
    }
    for port in most..3 * most {
        let ports = guest.request(52, port, GUEST_WINDOW);
        guest.until(ports, |socket| socket.reset);
    }
    let caller = directory.call("CONNECT 1\n");
    guest.send_op(Ports { host: 52, guest: 0 }, Op::Reset);
    assert_eq!(guest.answer().guest, 1, "a program that called waited for a place");
    drop(caller);
}
