//! The cards of a machine in namespaces that somebody else has filled: real links, addresses and redirections.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::fs::File;
use std::os::fd::AsFd;

use rvm_agent_proto as proto;

use super::{Cards, refuse_others};
use crate::network::NetworkError;
use crate::network::tests::machine::{Machine, cannot_run, in_namespace, run};

/// A network as CNI's plugins and Docker make it: `eth0` here, the other end on the machine.
fn connect(other: &Machine) {
    run("ip link add eth0 address 02:42:0a:09:01:05 mtu 1400 type veth peer name far0");
    run(&format!("ip link set far0 netns {}", other.thread));
    other.run(|| run("ip address add 10.9.1.1/24 dev far0") + &run("ip link set far0 up"));
    run("ip address add 10.9.1.5/24 dev eth0");
    run("ip address add 2001:db8::5/64 dev eth0 nodad");
    run("ip link set eth0 up");
    run("ip route add default via 10.9.1.1");
    run("ip route add 10.7.0.0/16 via 192.0.2.1 dev eth0 onlink metric 7");
    run("ip neighbour add 10.9.1.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent");
}

/// Whether this kernel has what redirections are made of.
fn redirects() -> bool {
    run("ip link add probe0 type veth peer name probe1");
    let index = |name| crate::network::link::index(name).unwrap().unwrap();
    let mut netlink = crate::network::netlink::Netlink::route().unwrap();
    let done = super::tc::redirect(&mut netlink, index("probe0"), index("probe1"));
    run("ip link delete probe0");
    if let Err(error) = &done {
        cannot_run(&format!("no redirections (cls_u32, act_mirred): {error}"));
    }
    done.is_ok()
}

#[test]
fn a_card_takes_the_place_of_an_interface() {
    in_namespace(|| {
        if !redirects() {
            return;
        }
        let other = Machine::new();
        connect(&other);
        let mut cards = Cards::make(0).unwrap();
        assert_eq!(cards.configuration().len(), 1);
        let adopted = cards.adopt().unwrap().unwrap();

        let interface = proto::Interface {
            mac: "02:72:00:00:00:00".into(),
            name: "eth0".into(),
            new_mac: "02:42:0a:09:01:05".into(),
            mtu: 1400,
            addresses: vec!["10.9.1.5/24".into(), "2001:db8::5/64".into()],
            up: true,
            no_prefix_route: true,
            removed_addresses: Vec::new(),
        };
        assert_eq!(adopted.interfaces, [interface]);
        let route = |destination: &str, gateway: &str| {
            let found = adopted.routes.iter().find(|route| route.destination == destination);
            let found = found.unwrap_or_else(|| panic!("{destination} is not in {:?}", adopted.routes));
            assert_eq!((found.gateway.as_str(), found.interface.as_str()), (gateway, "eth0"));
            found.clone()
        };
        assert_eq!(route("10.9.1.0/24", "").source, "10.9.1.5");
        route("2001:db8::/64", "");
        route("0.0.0.0/0", "10.9.1.1");
        let far = route("10.7.0.0/16", "192.0.2.1");
        assert!(far.on_link && far.metric == 7, "{far:?}");
        assert_eq!(adopted.neighbours.len(), 1);
        assert_eq!(adopted.neighbours[0].address, "10.9.1.9");

        // Nothing has changed since.
        assert_eq!(cards.adopt().unwrap(), None);

        // It is the namespace's own again.
        let disciplines = || run("tc qdisc show dev eth0");
        assert!(disciplines().contains("ingress"), "{}", disciplines());
        drop(cards);
        assert!(!disciplines().contains("ingress"), "{}", disciplines());
    });
}

#[test]
fn packets_go_to_the_card_and_back() {
    in_namespace(|| {
        if !redirects() {
            return;
        }
        let other = Machine::new();
        connect(&other);
        let mut cards = Cards::make(0).unwrap();
        cards.adopt().unwrap();

        let guest = Machine::with_card("02:42:0a:09:01:05", "10.9.1.5/24", "10.9.1.1");
        let tap = File::from(cards.descriptors()[0].as_fd().try_clone_to_owned().unwrap());
        guest.cable(tap);
        let received = other.run(|| {
            let socket = std::net::UdpSocket::bind("10.9.1.1:7").unwrap();
            std::thread::spawn(move || {
                let mut word = [0; 16];
                let (length, from) = socket.recv_from(&mut word).unwrap();
                (word[..length].to_vec(), from.ip().to_string())
            })
        });
        guest.run(|| {
            let socket = std::net::UdpSocket::bind("10.9.1.5:0").unwrap();
            socket.send_to(b"hello", "10.9.1.1:7").unwrap();
        });
        assert_eq!(received.join().unwrap(), (b"hello".to_vec(), "10.9.1.5".to_owned()));
    });
}

#[test]
fn what_comes_later_gets_a_spare_card_and_what_is_too_much_an_error() {
    in_namespace(|| {
        if !redirects() {
            return;
        }
        let mut cards = Cards::make(1).unwrap();
        assert_eq!(cards.adopt().unwrap(), None);
        let other = Machine::new();
        connect(&other);
        assert_eq!(cards.adopt().unwrap().unwrap().interfaces.len(), 1);
        run("ip link add eth1 type veth peer name down1");
        run("ip link set eth1 up");
        assert!(matches!(cards.adopt(), Err(NetworkError::TooFewCards { needed: 2, have: 1 })));
        // Its place is free again when it is gone.
        run("ip link delete eth0");
        let interfaces = cards.adopt().unwrap().unwrap().interfaces;
        assert_eq!((interfaces[0].name.as_str(), interfaces[1].name.as_str()), ("spare0", "eth1"));
        assert_eq!(interfaces[0].removed_addresses, ["10.9.1.5/24", "2001:db8::5/64"]);
        // So is an address.
        run("ip address add 10.9.2.5/24 dev eth1");
        assert_eq!(cards.adopt().unwrap().unwrap().interfaces[0].addresses, ["10.9.2.5/24"]);
        run("ip address delete 10.9.2.5/24 dev eth1");
        assert_eq!(cards.adopt().unwrap().unwrap().interfaces[0].removed_addresses, ["10.9.2.5/24"]);
        assert!(matches!(Cards::make(1), Err(NetworkError::NamespaceTaken)));
    });
}

#[test]
fn a_namespace_with_programs_of_others_is_refused_by_their_name() {
    in_namespace(|| {
        refuse_others().unwrap();
        // A process is born in the namespace of the thread that starts it.
        let mut program = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let refused = refuse_others();
        program.kill().unwrap();
        program.wait().unwrap();
        match refused {
            Err(NetworkError::InUse { process, name }) => {
                assert_eq!((process, name.as_str()), (program.id(), "sleep"));
            }
            other => panic!("{other:?}"),
        }
        refuse_others().unwrap();
    });
}
