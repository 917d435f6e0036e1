//! Control sockets that are none, and what a control socket is told of a VM that cannot be started.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::place::Place;

#[test]
fn a_descriptor_that_is_no_control_socket() {
    let place = Place::new();
    let end = "it is no connected Unix socket of type SOCK_SEQPACKET; make it with socketpair(2)";
    let stream = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = place.boot(&["--control", "fd=0", "--console", "none"]);
    command.stdin(OwnedFd::from(stream.0));
    place.command_refuses(command, 76, &format!("cannot use descriptor 0 as control socket: {end}"));
    let message = "cannot use descriptor 99 as control socket; pass one end of a socket pair to rvm: Bad file \
                   descriptor (os error 9)";
    place.refuses(&["--control", "fd=99"], 76, message);
    place.refuses(
        &["--control", "9,now"],
        2,
        "cannot use '9,now' for --control: unknown key 'now' (known: fd)",
    );
}

#[test]
fn a_captured_console_without_a_control_socket() {
    let message =
        "console cannot be captured without a control socket to give it to; add one, or say where it goes";
    Place::new().refuses(&["--console", "captured"], 74, message);
}

#[test]
fn a_vm_that_cannot_be_started_is_explained_to_the_control_socket() {
    let place = Place::new();
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, rvms) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let mut command = place.boot(&["--control", "fd=0", "--console", "captured", "--kernel", "k"]);
    command.stdin(Stdio::from(rvms));
    let missing =
        "cannot open kernel 'k': there is no such file; give the path of an ELF vmlinux or a bzImage";
    place.command_refuses(command, 20, missing);
    let next = || {
        let mut packet = [0; 1024];
        let length = recv(ours.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).unwrap();
        String::from_utf8(packet[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), r#"{"hello":{"version":1}}"#);
    let ended = format!(r#"{{"reason":"not_started","status":20,"message":"{missing}","console":null}}"#);
    assert_eq!(next(), format!(r#"{{"event":{{"ended":{ended}}}}}"#));
}
