//! How connections begin: calls of programs, requests of the guest, and the name of the socket.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::devices::virtio::VirtioDevice;

#[test]
fn a_program_calls_the_guest_and_both_speak() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let mut program = directory.call("CONNECT 1024\nhello guest");
    let ports = guest.answer();
    assert_eq!(ports.guest, 1024);
    let answer = format!("OK {}\n", ports.host);
    assert_eq!(read_exact(&mut program, answer.len()), answer.as_bytes());
    guest.until(ports, |socket| socket.inbox.len() == 11);
    assert_eq!(guest.inbox(ports), b"hello guest", "what follows the line is the guest's");
    guest.send_data(ports, b"hello host");
    assert_eq!(read_exact(&mut program, 10), b"hello host");
}

#[test]
fn a_call_may_come_in_pieces() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let mut program = directory.call("CONN");
    for piece in ["ECT 4294967", "295", "\n"] {
        // The device has seen the last piece once it has answered the guest.
        guest.send(&packet(Ports::default(), Op::CreditUpdate), &[]);
        guest.step();
        program.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(guest.answer().guest, u32::MAX);
}

#[test]
fn calls_that_make_no_sense_are_hung_up_on() {
    let directory = Directory::new();
    let _guest = Guest::start(&directory);
    let long = "CONNECT 00000000000000000000000000000000\n";
    for line in ["\n", "CONNECT\n", "CONNECT \n", "CONNECT +1\n", "CONNECT 4294967296\n", "connect 1\n", long]
    {
        let mut program = directory.call(line);
        let end = program.read(&mut [0]);
        // A program whose line was left unread is told so.
        let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(reset || end.is_ok_and(|count| count == 0), "{line:?}");
    }
}

#[test]
fn a_call_that_the_guest_refuses_is_hung_up_on() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let mut program = directory.call("CONNECT 7\n");
    let (request, _) = guest.receive();
    guest.send(&request.reset(), &[]);
    assert_eq!(read_to_end(&mut program), b"");
}

#[test]
fn every_call_gets_a_port_of_its_own() {
    let directory = Directory::new();
    let mut guest = Guest::start(&directory);
    let _programs = [0; 3].map(|_| directory.call("CONNECT 5\n"));
    let mut hosts = [0; 3].map(|_| guest.answer().host);
    hosts.sort_unstable();
    assert!(hosts[0] >= 1 << 30 && hosts[0] < hosts[1] && hosts[1] < hosts[2], "{hosts:?}");
}

#[test]
fn the_guest_connects_to_a_program() {
    let directory = Directory::new();
    let program = directory.listen(52);
    let mut guest = Guest::start(&directory);
    let (ports, mut stream) = guest.connect(&program, 52, 4000);
    guest.send_data(ports, b"ping");
    assert_eq!(read_exact(&mut stream, 4), b"ping");
    stream.write_all(b"pong").unwrap();
    guest.until(ports, |socket| socket.inbox.len() == 4);
    assert_eq!(guest.inbox(ports), b"pong");
}

#[test]
fn a_port_where_no_program_listens_is_refused() {
    let directory = Directory::new();
    drop(directory.listen(53));
    let mut guest = Guest::start(&directory);
    for port in [52, 53, u32::MAX] {
        let ports = guest.request(port, 4000, GUEST_WINDOW);
        guest.until(ports, |socket| socket.reset);
    }
}

#[test]
fn the_name_of_the_socket_must_be_free() {
    let directory = Directory::new();
    fs::write(directory.socket(), "mine").unwrap();
    let error = directory.open().err().unwrap();
    assert!(matches!(error, VsockError::Exists(_)), "{error}");
    assert_eq!(fs::read(directory.socket()).unwrap(), b"mine");

    let missing = directory.0.join("missing/vm.sock");
    let error = Vsock::open(&rvm_config::Vsock { cid: CID, socket: missing }).err().unwrap();
    assert!(matches!(error, VsockError::Listen { .. }), "{error}");
}

#[test]
fn the_socket_is_for_its_user_alone_and_is_gone_in_the_end() {
    let directory = Directory::new();
    let device = directory.open().unwrap();
    let mode = fs::metadata(directory.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(device);
    assert!(!directory.socket().exists());
}

#[test]
fn a_name_that_is_someone_elses_by_now_is_left_alone() {
    let directory = Directory::new();
    let device = directory.open().unwrap();
    fs::rename(directory.socket(), directory.0.join("old")).unwrap();
    fs::write(directory.socket(), "mine").unwrap();
    drop(device);
    assert_eq!(fs::read(directory.socket()).unwrap(), b"mine");
}

#[test]
fn the_driver_learns_its_identifier() {
    let directory = Directory::new();
    let device = directory.open().unwrap();
    let mut bytes = [0; 8];
    device.config().read(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), u64::from(CID));
}

#[test]
fn a_program_that_called_before_the_driver_ran_is_served() {
    let directory = Directory::new();
    let device = directory.open().unwrap();
    let _program = directory.call("CONNECT 77\n");
    let mut guest = Guest::with_device(device);
    assert_eq!(guest.answer().guest, 77);
}
