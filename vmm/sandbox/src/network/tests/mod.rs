//! Networks in a namespace of the test's own: the kernel's bridge, taps and rules are real, and no packet leaves.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

pub(super) mod machine;
mod on_passt;
mod traffic;

use std::collections::HashSet;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::*;
use machine::{in_namespace, run};

/// The host of a test: its sandboxes' directory, and a loop to wait on.
pub struct Host {
    pub runtime: Runtime,
    directory: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, directory: TempDir::new().unwrap() }
    }

    pub fn try_open(&self, vm_id: &str, publish: &str) -> Result<Network, NetworkError> {
        self.runtime.block_on(open(request(vm_id, publish), self.directory.path()))
    }

    pub fn open(&self, vm_id: &str, publish: &str) -> Network {
        self.try_open(vm_id, publish).unwrap()
    }

    /// Does `work`, which waits for what the proxies on the loop do.
    pub fn while_serving<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.runtime.block_on(async { tokio::task::spawn_blocking(work).await }).unwrap()
    }

    pub fn close(&self, network: Network) {
        self.runtime.block_on(network.close()).unwrap();
    }
}

/// A sandbox that is to have its ports published as `publish` says, words of a command line.
fn request(vm_id: &str, publish: &str) -> NetworkRequest {
    NetworkRequest {
        mode: NetworkMode::Default,
        required: false,
        publish: publish.split_whitespace().flat_map(|ports| ports.parse::<Ports>().unwrap().0).collect(),
        dns: vec!["192.0.2.53".parse().unwrap()],
        vm_id: vm_id.into(),
        hostname: "sandbox".into(),
    }
}

/// What the namespace has: links and rules.
fn state() -> String {
    run("ip -o link") + &run("ip -o address") + &run("nft list ruleset")
}

#[test]
fn the_guest_is_told_of_its_card_and_the_way_out() {
    in_namespace(|| {
        let host = Host::new();
        let network = host.open("vm", "");
        let card = network.card.as_ref().unwrap();
        let address = network.address.unwrap();
        let interface = &network.interfaces[0];
        assert_eq!(interface.mac, card.mac.unwrap().to_string());
        assert_eq!(interface.addresses, [format!("{address}/24")]);
        assert!(interface.up);
        assert_eq!(network.routes[0].gateway, "172.30.77.1");
        assert_eq!(network.routes[0].interface, interface.name);
        assert_eq!(network.dns.as_ref().unwrap().servers, ["192.0.2.53"]);
        assert_eq!(network.hosts[0].names, ["sandbox"]);
        let fd = network.descriptor().unwrap().as_raw_fd();
        assert_eq!(card.host, NetHost::Tap(rvm_config::Tap::Fd(fd)));
    });
}

#[test]
fn nothing_is_left_of_a_network_that_was_closed() {
    in_namespace(|| {
        let host = Host::new();
        let before = state();
        let network = host.open("vm", "127.0.0.1::80 127.0.0.1::53/udp");
        assert_ne!(state(), before);
        host.close(network);
        assert_eq!(state(), before);
        assert_eq!(walk(host.directory.path()), Vec::<String>::new());
    });
}

fn walk(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    names
        .flat_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let below = if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { vec![] };
            [name].into_iter().chain(below)
        })
        .collect()
}

#[test]
fn nothing_is_left_of_a_network_that_failed_or_was_dropped() {
    in_namespace(|| {
        let host = Host::new();
        let before = state();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = host.try_open("vm", &format!("{}:80", taken.local_addr().unwrap())).err().unwrap();
        assert!(matches!(error, NetworkError::Port { .. }), "{error}");
        assert_eq!(state(), before);

        drop(host.open("vm", "127.0.0.1::80"));
        assert_eq!(state(), before);
    });
}

#[test]
fn what_a_killed_supervisor_left_is_reclaimed_once_its_vmm_is_gone() {
    in_namespace(|| {
        let host = Host::new();
        let before = state();
        let mut network = host.open("vm", "");
        let vmm = network.descriptor().unwrap().try_clone_to_owned().unwrap();
        // The kernel closes what the supervisor had, and nobody cleans up.
        network.handed_over();
        std::mem::forget(network);

        host.runtime.block_on(reclaim(host.directory.path())).unwrap();
        assert_ne!(state(), before, "the VMM still has its card");
        drop(vmm);
        host.runtime.block_on(reclaim(host.directory.path())).unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn sandboxes_that_come_at_once_have_addresses_of_their_own() {
    in_namespace(|| {
        let host = Host::new();
        let before = state();
        let opening: Vec<_> = (0..8)
            .map(|number| {
                let directory = host.directory.path().to_owned();
                host.runtime.spawn(async move { open(request(&format!("vm{number}"), ""), &directory).await })
            })
            .collect();
        let networks: Vec<_> =
            opening.into_iter().map(|opening| host.runtime.block_on(opening).unwrap().unwrap()).collect();
        let addresses: HashSet<_> = networks.iter().map(|network| network.address).collect();
        assert_eq!(addresses.len(), 8);
        let closing: Vec<_> =
            networks.into_iter().map(|network| host.runtime.spawn(network.close())).collect();
        for closing in closing {
            host.runtime.block_on(closing).unwrap().unwrap();
        }
        assert_eq!(state(), before);
    });
}

#[test]
fn sandboxes_of_another_runtime_directory_are_on_the_same_bridge() {
    in_namespace(|| {
        let (host, other) = (Host::new(), Host::new());
        let before = state();
        let (network, others) = (host.open("vm", ""), other.open("vm", ""));
        assert_ne!(network.address, others.address);
        host.close(network);
        assert!(run("ip -o link").contains("rvm0-"), "the other's card stays");
        other.close(others);
        assert_eq!(state(), before);
    });
}

#[test]
fn a_full_network_says_so_and_takes_the_next_when_one_ends() {
    in_namespace(|| {
        run("ip link add rvm0 address 02:76:0a:09:08:01 type bridge");
        run("ip address add 10.9.8.1/29 dev rvm0");
        let host = Host::new();
        let mut networks: Vec<_> = (0..5).map(|number| host.open(&format!("vm{number}"), "")).collect();
        let error = host.try_open("one more", "").err().unwrap();
        assert!(error.to_string().contains("10.9.8.0/29 are in use by sandboxes"), "{error}");
        let freed = networks[2].address;
        host.close(networks.remove(2));
        assert_eq!(host.open("one more", "").address, freed);
    });
}

#[test]
fn a_bridge_that_was_never_finished_is_made_anew() {
    in_namespace(|| {
        let host = Host::new();
        let before = state();
        run("ip link add rvm0 address 02:76:0a:09:08:01 type bridge");
        let network = host.open("vm", "");
        assert_eq!(network.routes[0].gateway, "172.30.77.1");
        host.close(network);
        assert_eq!(state(), before);
    });
}

#[test]
fn the_firewall_knows_every_address_of_the_largest_network() {
    in_namespace(|| {
        run("ip link add rvm0 address 02:76:0a:09:08:01 type bridge");
        run("ip address add 10.9.8.1/22 dev rvm0");
        let _network = Host::new().open("vm", "");
        let guests = run("nft list set bridge rvm guests");
        assert_eq!(guests.matches("rvm0-").count(), 1021);
        assert!(guests.contains(r#""rvm0-1022" . 02:76:0a:09:0b:fe . 10.9.11.254"#), "{guests}");
    });
}

#[test]
fn the_range_avoids_what_the_host_has_routes_to() {
    in_namespace(|| {
        run("ip link add office type bridge");
        run("ip link set office up");
        run("ip route add 172.16.0.0/12 dev office");
        let host = Host::new();
        assert_eq!(host.open("vm", "").routes[0].gateway, "10.177.77.1");
    });
}

#[test]
fn rules_that_somebody_flushed_come_back_with_the_next_sandbox() {
    in_namespace(|| {
        let host = Host::new();
        let _first = host.open("first", "");
        let rules = run("nft list ruleset");
        run("nft flush ruleset");
        let _second = host.open("second", "");
        assert_eq!(run("nft list ruleset"), rules);
    });
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_told_of_until_it_knows_the_bridge() {
    in_namespace(|| {
        // As iptables-nft makes it for Docker.
        run("nft add table ip filter");
        run("nft add chain ip filter DOCKER-USER");
        run("nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        let host = Host::new();
        let notice = host.open("vm", "").notice.unwrap();
        assert!(notice.contains("iptables -I DOCKER-USER -i rvm0 -j ACCEPT"), "{notice}");
        run("nft add rule ip filter DOCKER-USER iifname rvm0 accept");
        assert_eq!(host.open("vm", "").notice, None);
    });
}

#[test]
fn somebody_elses_rvm0_is_not_touched() {
    in_namespace(|| {
        run("ip link add rvm0 type bridge");
        run("ip address add 10.0.0.1/24 dev rvm0");
        let before = state();
        let error = Host::new().try_open("vm", "").err().unwrap();
        assert!(matches!(error, NetworkError::ForeignBridge), "{error}");
        assert_eq!(state(), before);
    });
}

#[test]
fn ports_of_no_network_are_refused() {
    let request = NetworkRequest { mode: NetworkMode::None, ..request("vm", "80") };
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(open(request, Path::new("/nonexistent"))).err().unwrap();
    assert!(matches!(error, NetworkError::PublishNothing), "{error}");
}

#[test]
fn whoever_asked_for_a_network_is_refused_where_there_is_none() {
    let plain = request("vm", "");
    let network = plain.do_without(NetworkError::NoNft).unwrap();
    assert_eq!(network.notice, Some(format!("no network: {}", NetworkError::NoNft)));
    assert!(network.card.is_none());
    for asked in [NetworkRequest { required: true, ..plain }, request("vm", "80")] {
        assert!(matches!(asked.do_without(NetworkError::NoNft), Err(NetworkError::NoNft)));
    }
}
