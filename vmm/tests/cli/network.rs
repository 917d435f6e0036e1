//! Network cards and socket devices that cannot be made. Taps that cannot be used need the superuser: see the
//! end-to-end tests.

use std::os::unix::net::UnixListener;

use crate::place::Place;

#[test]
fn a_tap_name_that_no_interface_can_have() {
    let place = Place::new();
    for name in ["a/b", "a b", "0123456789abcdef"] {
        let message = format!("tap name '{name}' must be 1 to 15 bytes without '/' and spaces");
        place.refuses(&["--net", name], 74, &message);
    }
    place.refuses(
        &["--net", "t0", "--net", "t0"],
        74,
        "tap 't0' is given to two network cards; give each its own",
    );
}

#[test]
fn a_descriptor_that_is_no_stream_socket() {
    let place = Place::new();
    let message = "descriptor 99 is not an open socket: pass one end of a connection to rvm: Bad file descriptor (os \
                   error 9)";
    place.refuses(&["--net", "socket-fd=99"], 63, message);
    let mut command = place.boot(&["--net", "socket-fd=0", "--console", "none"]);
    command.stdin(std::os::fd::OwnedFd::from(std::os::unix::net::UnixDatagram::pair().unwrap().0));
    let message = "the socket of descriptor 0 is no connected Unix stream socket: connect it to passt or the like first";
    place.command_refuses(command, 63, message);
}

#[test]
fn a_packet_size_that_no_card_has() {
    Place::new().refuses(
        &["--net", "t0,mtu=67"],
        74,
        "mtu cannot be 67: a card has 68 to 65535; give such a size, or none",
    );
}

#[test]
fn a_vsock_socket_that_cannot_be_made() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.path("s")).unwrap();
    place.refuses(
        &["--vsock", "s"],
        65,
        "cannot make the vsock socket 's': the name is taken; remove it if no VM uses it, or choose another",
    );
    place.refuses(
        &["--vsock", "missing/s"],
        66,
        "cannot make the vsock socket 'missing/s': No such file or directory (os error 2); choose a path in a directory \
         that exists, that you may write to",
    );
    let long = "s".repeat(97);
    let message = format!("vsock socket path '{long}' is too long: at most 96 bytes");
    place.refuses(&["--vsock", &long], 74, &message);
    place.refuses(&["--vsock", "s,cid=2"], 74, "vsock cid cannot be 2: a guest has 3 to 4294967294");
}

#[test]
fn a_vsock_socket_of_a_vm_that_is_not_made_is_removed() {
    let place = Place::new();
    place.file("k", "no kernel");
    let message = "cannot boot kernel 'k': it is no kernel; give the path of an ELF vmlinux or a bzImage";
    place.refuses(&["--vsock", "s", "--kernel", "k"], 23, message);
}
