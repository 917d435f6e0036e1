//! What gets from where to where, and as whom.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::Host;
use super::machine::{Machine, in_namespace, run};
use crate::network::subnet::mac;

/// Far longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn heard(socket: &UdpSocket) -> (String, std::net::SocketAddr) {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

#[test]
fn a_guest_reaches_the_world_with_the_hosts_address() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let (guest, outside) = (Machine::guest(&network), Machine::outside());
        let server = outside.run(|| udp("198.51.100.1:9"));
        let client = guest.run(|| udp("0.0.0.0:0"));
        client.send_to(b"question", "198.51.100.1:9").unwrap();
        let (question, from) = heard(&server);
        assert_eq!((question.as_str(), from.ip().to_string().as_str()), ("question", "198.51.100.2"));
        server.send_to(b"answer", from).unwrap();
        assert_eq!(heard(&client).0, "answer");
    });
}

#[test]
fn the_world_does_not_reach_a_guest_unasked() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let (guest, outside) = (Machine::guest(&network), Machine::outside());
        let server = guest.run(|| udp("0.0.0.0:9"));
        let target = (network.address.unwrap(), 9);
        let stranger = outside.run(|| {
            run("ip route add 172.30.77.0/24 via 198.51.100.2");
            udp("0.0.0.0:0")
        });
        stranger.send_to(b"from outside", target).unwrap();
        // Sent later: what is heard first tells that the other is lost.
        udp("0.0.0.0:0").send_to(b"from the host", target).unwrap();
        assert_eq!(heard(&server).0, "from the host");
    });
}

#[test]
fn guests_reach_each_other() {
    in_namespace(|| {
        let host = Host::new();
        let (one, other) = (host.open("one", ""), host.open("other", ""));
        let (guest, second) = (Machine::guest(&one), Machine::guest(&other));
        let server = second.run(|| udp("0.0.0.0:9"));
        let client = guest.run(|| udp("0.0.0.0:0"));
        client.send_to(b"hello", (other.address.unwrap(), 9)).unwrap();
        let (word, from) = heard(&server);
        assert_eq!((word.as_str(), from.ip()), ("hello", one.address.unwrap()));
    });
}

#[test]
fn a_guest_sends_with_its_own_addresses_only() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let guest = Machine::guest(&network);
        let server = udp("172.30.77.1:9");
        let own = network.address.unwrap();
        let honest = guest.run(move || udp(&format!("{own}:7")));
        let stolen = guest.run(|| {
            run("ip address add 172.30.77.254/24 dev eth0");
            udp("172.30.77.254:7")
        });
        honest.send_to(b"honest", "172.30.77.1:9").unwrap();
        assert_eq!(heard(&server).0, "honest");

        stolen.send_to(b"as somebody else", "172.30.77.1:9").unwrap();
        guest.run(|| run("ip link set eth0 address 02:00:00:00:00:09"));
        honest.send_to(b"from another card", "172.30.77.1:9").unwrap();
        guest.run(move || {
            let std::net::IpAddr::V4(own) = own else { panic!("{own} is not IPv4") };
            run(&format!("ip link set eth0 address {}", mac(own)))
        });
        honest.send_to(b"honest again", "172.30.77.1:9").unwrap();
        assert_eq!(heard(&server).0, "honest again");
    });
}

#[test]
fn a_guest_does_not_reach_the_hosts_loopback_even_where_that_is_routed() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let guest = Machine::guest(&network);
        let own = network.address.unwrap();
        let client = guest.run(move || {
            run("ip route flush table local root 127.0.0.0/8");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            udp(&format!("{own}:0"))
        });
        std::fs::write("/proc/sys/net/ipv4/conf/rvm0/route_localnet", "1").unwrap();
        let (inner, outer) = (udp("127.0.0.1:9"), udp("172.30.77.1:9"));
        client.send_to(b"inside", "127.0.0.1:9").unwrap();
        client.send_to(b"outside", "172.30.77.1:9").unwrap();
        assert_eq!(heard(&outer).0, "outside");
        run("nft flush chain ip rvm input");
        client.send_to(b"without the rule", "127.0.0.1:9").unwrap();
        assert_eq!(heard(&inner).0, "without the rule");
    });
}

#[test]
fn a_guest_cannot_say_that_it_has_anothers_address() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let guest = Machine::guest(&network);
        guest.run(|| {
            run("ip address add 172.30.77.254/24 dev eth0");
        });
        // ARP for the stolen address stays without an answer: the host finds nobody there.
        let stream = TcpStream::connect_timeout(&"172.30.77.254:9".parse().unwrap(), PATIENCE);
        assert_eq!(stream.unwrap_err().kind(), std::io::ErrorKind::HostUnreachable);
    });
}

#[test]
fn a_published_port_leads_to_the_guest_and_ends_are_passed_on() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "127.0.0.1::80");
        let guest = Machine::guest(&network);
        let server = guest.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
        let serving = std::thread::spawn(move || {
            let (mut connection, from) = server.accept().unwrap();
            let mut question = String::new();
            connection.read_to_string(&mut question).unwrap();
            connection.write_all(question.to_uppercase().as_bytes()).unwrap();
            from.ip()
        });
        let mut client = TcpStream::connect(network.published[0].host).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let answer = host.while_serving(move || {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        });
        assert_eq!(answer, "QUESTION");
        assert_eq!(serving.join().unwrap(), Ipv4Addr::new(172, 30, 77, 1));
        host.close(network);
    });
}

#[test]
fn a_published_udp_port_leads_to_the_guest_and_back() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "5353:53/udp");
        let guest = Machine::guest(&network);
        let server = guest.run(|| udp("0.0.0.0:53"));
        let client = udp("127.0.0.1:0");
        client.send_to(b"question", "127.0.0.1:5353").unwrap();
        let answer = host.while_serving(move || {
            let (question, from) = heard(&server);
            assert_eq!(question, "question");
            server.send_to(b"answer", from).unwrap();
            heard(&client).0
        });
        assert_eq!(answer, "answer");
    });
}
