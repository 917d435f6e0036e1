//! Pause, reset, and deadlines.

use super::*;

#[test]
fn connections_survive_a_pause() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 1);
    guest.driver.transport.pause();
    stream.write_all(b"while you slept").unwrap();
    guest.driver.transport.resume();
    guest.until(ports, |socket| socket.inbox.len() == 15);
    guest.send_data(ports, b"awake");
    assert_eq!(read_exact(&mut stream, 5), b"awake");
}

#[test]
fn pauses_under_traffic_lose_nothing() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 1);
    let bytes = noise(2 << 20, 1);
    let writer = std::thread::spawn({
        let bytes = bytes.clone();
        move || stream.write_all(&bytes).unwrap()
    });
    while guest.sockets[&ports].inbox.len() < bytes.len() {
        guest.driver.transport.pause();
        guest.driver.transport.resume();
        guest.step();
    }
    assert!(guest.inbox(ports) == bytes);
    writer.join().unwrap();
}

#[test]
fn a_reset_under_traffic_ends_the_connections_and_new_ones_work() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    for round in 0..20 {
        let (ports, mut stream) = guest.connect(&program, 52, round);
        let mut caller = directory.call("CONNECT 5\n");
        stream.write_all(&noise(100_000, 1)).unwrap();
        guest.send_data(ports, &noise(50_000, 2));
        guest.driver.initialise(u64::MAX);
        let end =
            std::iter::repeat_with(|| stream.read(&mut [0; 4096])).find(|read| !matches!(read, Ok(1..)));
        assert!(end.is_some());
        caller.read_to_end(&mut Vec::new()).ok();
        guest.sockets.clear();
        guest.buffers.clear();
        guest.strays.clear();
        guest.give_buffers();
    }
}

#[test]
fn the_socket_goes_with_the_device() {
    let directory = Directory::new();
    let guest = Guest::start(&directory);
    let Guest { driver, .. } = guest;
    drop(driver.transport.into_parts());
    assert!(!directory.socket().exists());
}

/// A guest whose device waits for nobody long.
fn impatient(directory: &Directory) -> Guest {
    let mut device = directory.open().unwrap();
    device.patience = Duration::from_millis(20);
    Guest::with_device(device)
}

#[test]
fn a_program_that_does_not_say_what_it_wants_is_hung_up_on() {
    let directory = Directory::new();
    let _guest = impatient(&directory);
    let mut program = directory.call("");
    assert_eq!(read_to_end(&mut program), b"");
}

#[test]
fn a_call_that_the_guest_does_not_answer_ends() {
    let directory = Directory::new();
    let mut guest = impatient(&directory);
    let mut program = directory.call("CONNECT 9\n");
    let (request, _) = guest.receive();
    assert_eq!(read_to_end(&mut program), b"");
    let (reset, _) = guest.receive();
    assert_eq!((reset.op(), reset.dst_port), (Some(Op::Reset), request.dst_port));
}

#[test]
fn a_guest_that_does_not_confirm_the_end_is_not_waited_for() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = impatient(&directory);
    let (ports, stream) = guest.connect(&program, 52, 1);
    drop(stream);
    guest.until(ports, |socket| socket.reset);
    assert_eq!(guest.sockets[&ports].host_flags, NO_MORE);
}
