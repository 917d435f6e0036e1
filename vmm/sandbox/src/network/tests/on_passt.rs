//! The network without privileges, with the machine's passt(1).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::Host;
use super::machine::{Machine, cannot_run, in_namespace, run};
use super::traffic::{PATIENCE, heard, udp};
use crate::network::passt::{self, Passt};
use crate::network::publish::{Ports, Published};
use crate::network::subnet::mac;
use crate::network::{Identity, NetworkError, program};

/// Bytes of `virtio_net_hdr`, which a tap has before each frame.
const HEADER: usize = 10;

/// A machine behind passt, and the VMM's end of the socket.
struct Guest {
    machine: Machine,
    socket: UnixStream,
}

/// Runs `test` with a passt that publishes `ports`, the guest behind it, and a machine outside.
fn with_passt(
    ports: &'static str,
    test: impl FnOnce(&Host, Passt, Vec<Published>, Guest, Machine) + Send + 'static,
) {
    in_namespace(move || {
        if program("passt").is_none() {
            return cannot_run("passt(1) is missing (package passt)");
        }
        let outside = Machine::outside();
        run("ip route add default via 198.51.100.1");
        let host = Host::new();
        let identity =
            Identity { subnet: "172.30.77.0/24".parse().unwrap(), address: "172.30.77.2".parse().unwrap() };
        let ports: Ports = ports.parse().unwrap();
        let (mut passt, published) =
            match host.runtime.block_on(Passt::start(&ports.0, &identity, "172.30.77.3".parse().unwrap())) {
                Err(NetworkError::OldPasst) => return cannot_run("this machine's passt is from before 2025"),
                started => started.unwrap(),
            };
        let guest = identity.address;
        let gateway = identity.subnet.gateway().to_string();
        let guest = Machine::with_card(&mac(guest).to_string(), &format!("{guest}/24"), &gateway);
        let socket = UnixStream::from(passt.card.take().unwrap());
        socket.set_nonblocking(false).unwrap();
        to_passt(guest.card(), socket.try_clone().unwrap());
        from_passt(socket.try_clone().unwrap(), guest.card());
        test(&host, passt, published, Guest { machine: guest, socket }, outside);
    });
}

fn to_passt(mut card: File, mut socket: UnixStream) {
    std::thread::spawn(move || {
        let mut packet = vec![0; 70_000];
        while let Ok(length) = card.read(&mut packet) {
            let frame = &packet[HEADER..length];
            let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
            if socket.write_all(&[&length, frame].concat()).is_err() {
                return;
            }
        }
    });
}

fn from_passt(mut socket: UnixStream, mut card: File) {
    std::thread::spawn(move || {
        let mut length = [0; 4];
        while socket.read_exact(&mut length).is_ok() {
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
            let mut packet = vec![0; HEADER + length];
            socket.read_exact(&mut packet[HEADER..]).unwrap();
            // A tap that is down loses packets.
            let _ = card.write(&packet);
        }
    });
}

#[test]
fn a_guest_behind_passt_reaches_the_world_and_not_the_hosts_loopback() {
    with_passt("80", |_, _passt, _, guest, outside| {
        let server = outside.run(|| udp("198.51.100.1:9"));
        let client = guest.machine.run(|| udp("0.0.0.0:0"));
        let service = udp("127.0.0.1:9");
        client.send_to(b"to the gateway", "172.30.77.1:9").unwrap();
        client.send_to(b"question", "198.51.100.1:9").unwrap();
        let (question, from) = heard(&server);
        assert_eq!((question.as_str(), from.ip().to_string().as_str()), ("question", "198.51.100.2"));
        server.send_to(b"answer", from).unwrap();
        assert_eq!(heard(&client).0, "answer");
        service.set_nonblocking(true).unwrap();
        assert!(service.recv(&mut [0; 1]).is_err());
    });
}

#[test]
fn a_port_that_passt_publishes_leads_to_the_guest() {
    with_passt("127.0.0.1::80", |_, _passt, published, guest, _| {
        let server = guest.machine.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
        let mut client = TcpStream::connect(published[0].host).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut connection, _) = server.accept().unwrap();
        let mut question = String::new();
        connection.read_to_string(&mut question).unwrap();
        connection.write_all(question.to_uppercase().as_bytes()).unwrap();
        drop(connection);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "QUESTION");
    });
}

#[test]
fn passt_ends_with_the_vmm() {
    with_passt("80", |host, passt, _, guest, _| {
        guest.socket.shutdown(Shutdown::Both).unwrap();
        let start = Instant::now();
        host.runtime.block_on(passt.stop()).unwrap();
        assert!(start.elapsed() < passt::PATIENCE, "it had to be killed");
    });
}
