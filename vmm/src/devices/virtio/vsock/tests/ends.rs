//! How connections end: no way of ending loses data that was sent before it.

use std::net::Shutdown;

use super::*;
use crate::devices::virtio::vsock::packet::{NO_RECEIVE, NO_SEND};

/// A guest with a connection to a program.
fn connected(directory: &Directory) -> (Guest, Ports, UnixStream) {
    let program = directory.listen(52);
    let mut guest = Guest::start(directory);
    let (ports, stream) = guest.connect(&program, 52, 1);
    (guest, ports, stream)
}

#[test]
fn the_guest_ends_its_stream_and_still_receives() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    guest.send_data(ports, b"question");
    guest.shutdown(ports, NO_SEND);
    assert_eq!(read_to_end(&mut stream), b"question");
    let bytes = noise(500_000, 1);
    let writer = std::thread::spawn({
        let bytes = bytes.clone();
        move || stream.write_all(&bytes).unwrap()
    });
    guest.until(ports, |socket| socket.inbox.len() == bytes.len());
    assert!(guest.inbox(ports) == bytes);
    writer.join().unwrap();
    // The program is gone now: nothing moves any more, and the guest is told so.
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
}

#[test]
fn a_program_ends_its_stream_and_still_receives() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.until(ports, |socket| socket.host_flags == NO_SEND);
    assert_eq!(guest.inbox(ports), b"question", "the end comes after the data");
    let bytes = noise(100_000, 2);
    guest.send_all(ports, &bytes);
    guest.shutdown(ports, NO_SEND);
    assert!(read_to_end(&mut stream) == bytes);
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
}

#[test]
fn a_program_that_wants_no_more_is_named_to_the_guest_and_goes_on_sending() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    stream.shutdown(Shutdown::Read).unwrap();
    guest.send_data(ports, b"for nobody");
    guest.until(ports, |socket| socket.host_flags == NO_RECEIVE);
    stream.write_all(b"still here").unwrap();
    guest.until(ports, |socket| socket.inbox.len() == 10);
}

#[test]
fn a_guest_that_wants_no_more_stops_the_program_and_goes_on_sending() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    guest.shutdown(ports, NO_RECEIVE);
    assert!(stream.write_all(b"for nobody").is_err());
    guest.send_data(ports, b"still here");
    assert_eq!(read_exact(&mut stream, 10), b"still here");
}

#[test]
fn the_guest_closes_and_the_program_reads_everything_first() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let bytes = noise(256 << 10, 3);
    guest.send_all(ports, &bytes);
    guest.shutdown(ports, NO_MORE);
    assert!(read_to_end(&mut stream) == bytes);
    guest.until(ports, |socket| socket.reset);
}

#[test]
fn the_guest_forgets_the_connection_and_the_program_reads_everything_still() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let bytes = noise(400_000, 4);
    let most = bytes.len().min(guest.sockets[&ports].credit() as usize);
    let mut sent = 0;
    while sent < bytes.len() && guest.sockets[&ports].credit() > 0 {
        let now = (bytes.len() - sent).min(guest.sockets[&ports].credit() as usize).min(MOST_DATA);
        guest.send_data(ports, &bytes[sent..sent + now]);
        sent += now;
    }
    assert!(sent >= most);
    guest.send_op(ports, Op::Reset);
    // The ports are free at once, although the program has not read yet.
    guest.sockets.clear();
    let again = guest.request(52, 1, GUEST_WINDOW);
    guest.until(again, |socket| socket.open || socket.reset);
    assert!(read_to_end(&mut stream) == bytes[..sent]);
}

#[test]
fn a_program_closes_and_the_guest_reads_everything_first() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    let bytes = noise(150_000, 5);
    stream.write_all(&bytes).unwrap();
    drop(stream);
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
    assert!(guest.inbox(ports) == bytes);
    // What the guest has still to say is no error; RST ends it.
    let errors = guest.stats.errors.get();
    guest.send_data(ports, b"too late");
    guest.send_op(ports, Op::CreditUpdate);
    guest.send_op(ports, Op::Reset);
    assert_eq!((guest.strays.len(), guest.stats.errors.get()), (0, errors));
}

#[test]
fn both_closing_at_once_is_confirmed() {
    let directory = Directory::new();
    let (mut guest, ports, stream) = connected(&directory);
    drop(stream);
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
    guest.shutdown(ports, NO_MORE);
    guest.until(ports, |socket| socket.reset);
}

#[test]
fn a_program_that_vanishes_under_traffic_ends_the_connection() {
    let directory = Directory::new();
    let (mut guest, ports, mut stream) = connected(&directory);
    stream.write_all(&noise(10_000, 6)).unwrap();
    guest.send_data(ports, &noise(60_000, 7));
    drop(stream);
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
    guest.shutdown(ports, NO_MORE);
    guest.until(ports, |socket| socket.reset);
}

#[test]
fn a_caller_that_vanishes_before_the_answer_is_no_harm() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    drop(directory.call("CONNECT 1\n"));
    let ports = guest.answer();
    guest.until(ports, |socket| socket.host_flags == NO_MORE);
}
