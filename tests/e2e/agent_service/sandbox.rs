//! The guest as a whole: its name, clock, network, size, and its end.

use std::fs;

use rvm_agent_proto::{
    ConfigureRequest, Dns, HelloRequest, Interface, MetricsRequest, Neighbour, Route, ShutdownRequest,
};
use rvm_tests::artifact;
use tonic::Code;

use super::{refused, with_guest};

/// Bounds that the project sets itself (docs/budgets.md).
const MAX_PROGRAM: u64 = 6 << 20;
const MAX_RESIDENT: u64 = 8 << 20;

#[test]
fn what_is_configured_is_seen_by_a_container() {
    with_guest(async |guest| {
        let interface = Interface {
            name: "lo".into(),
            addresses: vec!["192.0.2.2/24".into(), "2001:db8::2/64".into()],
            mtu: 9000,
            up: true,
            ..Interface::default()
        };
        let route = Route {
            destination: "198.51.100.0/24".into(),
            gateway: "192.0.2.7".into(),
            interface: "lo".into(),
            metric: 5,
            ..Route::default()
        };
        let request = ConfigureRequest {
            hostname: Some("box".into()),
            time_ns: Some(1_900_000_000_000_000_000),
            entropy: vec![7; 32],
            sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
            interfaces: vec![interface],
            routes: vec![route],
            neighbours: Vec::new(),
            dns: Some(Dns { servers: vec!["192.0.2.53".into()], ..Dns::default() }),
            hosts: Vec::new(),
            resolver: "127.0.0.11".into(),
        };
        // Twice: what is there already is no error.
        for _ in 0..2 {
            guest.agent.sandbox().configure(request.clone()).await.unwrap();
        }
        let interface = Interface {
            name: "lo".into(),
            addresses: vec!["203.0.113.5/24".into()],
            removed_addresses: vec!["198.51.100.99/24".into(), "203.0.113.4/24".into()],
            no_prefix_route: true,
            ..Interface::default()
        };
        let before =
            Interface { name: "lo".into(), addresses: vec!["203.0.113.4/24".into()], ..Interface::default() };
        let route = Route {
            destination: "0.0.0.0/0".into(),
            gateway: "203.0.113.200".into(),
            interface: "lo".into(),
            source: "203.0.113.5".into(),
            on_link: true,
            ..Route::default()
        };
        for (interface, routes) in [(before, Vec::new()), (interface, vec![route])] {
            let request =
                ConfigureRequest { interfaces: vec![interface], routes, ..ConfigureRequest::default() };
            guest.agent.sandbox().configure(request).await.unwrap();
        }
        guest.mount_root().await;
        let script = "grep -c '0B00007F:0035' /proc/net/udp /proc/net/tcp; hostname; cat /etc/resolv.conf /proc/sys/net/ipv4/ip_forward; busybox date +%Y; \
            busybox ip -4 addr show lo; busybox ip -6 addr show lo; busybox ip route";
        let (output, end) = guest.run("look", script).await;
        assert_eq!(end.status, 0, "{output}");
        for expected in [
            "box\nnameserver 192.0.2.53\n1\n2030\n",
            "mtu 9000",
            "inet 192.0.2.2/24",
            "inet6 2001:db8::2/64",
            "198.51.100.0/24 via 192.0.2.7 dev lo  metric 5",
            "default via 203.0.113.200 dev lo  src 203.0.113.5 onlink",
            "inet 203.0.113.5/24",
            "/proc/net/udp:1\n/proc/net/tcp:1\n",
        ] {
            assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
        }
        for gone in ["203.0.113.4/24", "203.0.113.0/24 dev lo"] {
            assert!(!output.contains(gone), "{gone:?} is in:\n{output}");
        }
    });
}

#[test]
fn what_cannot_be_meant_changes_nothing() {
    with_guest(async |guest| {
        let mut sandbox = guest.agent.sandbox();
        let mut configure = async |request| refused(sandbox.configure(request).await);
        let sysctl = |name: &str| ConfigureRequest {
            hostname: Some("changed".into()),
            sysctls: [(name.to_owned(), "1".to_owned())].into(),
            ..ConfigureRequest::default()
        };
        assert_eq!(configure(sysctl("../../etc/x")).await.0, Code::InvalidArgument);
        let (code, message) = configure(sysctl("net.no_such")).await;
        assert_eq!((code, message.contains("sysctl net.no_such")), (Code::NotFound, true), "{message}");
        let neighbour = Neighbour { address: "192.0.2.1".into(), mac: "xx".into(), interface: "lo".into() };
        let request = ConfigureRequest { neighbours: vec![neighbour], ..ConfigureRequest::default() };
        assert_eq!(configure(request).await.0, Code::InvalidArgument);

        guest.agent.sandbox().configure(ConfigureRequest::default()).await.unwrap();
        guest.mount_root().await;
        assert_eq!(guest.run("look", "hostname").await.0, "rvm\n");
    });
}

#[test]
fn an_idle_agent_is_as_small_as_promised() {
    with_guest(async |guest| {
        let metrics = guest.agent.sandbox().metrics(MetricsRequest {}).await.unwrap().into_inner();
        assert!(metrics.agent_resident_bytes <= MAX_RESIDENT, "{} bytes", metrics.agent_resident_bytes);
        assert!(
            metrics.memory_available_bytes > 0 && metrics.memory_available_bytes < metrics.memory_total_bytes
        );
        let program = fs::metadata(artifact::directory().join("rvm-agent")).unwrap().len();
        assert!(program <= MAX_PROGRAM, "{program} bytes");
    });
}

#[test]
fn after_a_shutdown_only_hello_is_served() {
    with_guest(async |guest| {
        guest.mount_root().await;
        guest.run("ended", "echo x > /kept").await;
        guest.agent.sandbox().shutdown(ShutdownRequest {}).await.unwrap();
        let (code, message) = refused(guest.agent.sandbox().metrics(MetricsRequest {}).await);
        assert_eq!(code, Code::FailedPrecondition, "{message}");
        guest.agent.sandbox().hello(HelloRequest { protocol: 0 }).await.unwrap();
        guest.machine.stop().await;
    });
}
