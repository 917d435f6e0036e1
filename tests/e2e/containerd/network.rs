//! Networks that others made before the container, or between its creation and its start: namespaces and CNI plugins.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::place::{BUSYBOX, Place, RUNTIME};
use crate::process::run;

/// `ip` with these words, which is to go well.
#[track_caller]
pub fn ip(words: &str) -> String {
    let mut command = Command::new("ip");
    command.args(words.split_whitespace());
    let ran = run(command);
    assert_eq!(ran.status, Some(0), "ip {words}: {ran:?}");
    ran.out
}

/// A network namespace and its flag for `ctr`; removed in the end.
pub struct Namespace(&'static str);

impl Namespace {
    pub fn new(name: &'static str) -> Self {
        ip(&format!("netns add {name}"));
        Self(name)
    }

    /// `ip` in it.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        ip(&format!("-n {} {words}", self.0))
    }

    fn flag(&self) -> String {
        format!("network:/run/netns/{}", self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "delete", self.0]).status().unwrap();
    }
}

#[test]
fn an_interface_of_a_namespace_is_the_containers_with_all_that_it_has() {
    let Some(place) = Place::new("netns") else { return };
    let namespace = Namespace::new("rvm-netns");
    ip("link add rvm-far mtu 1400 type veth peer name eth0 mtu 1400 netns rvm-netns");
    ip("address add 10.177.0.1/24 dev rvm-far");
    ip("address add fd77::1/64 dev rvm-far nodad");
    ip("link set rvm-far up");
    namespace.ip("address add 10.177.0.5/24 dev eth0");
    namespace.ip("address add fd77::5/64 dev eth0 nodad");
    namespace.ip("link set eth0 up");
    namespace.ip("route add default via 10.177.0.1");
    namespace.ip("route add 192.0.2.0/24 via 10.177.0.7 metric 9");

    // Checksums and segments, both ways, are left to the other end: bits of struct virtio_net_config's features.
    let offloads = "cut -c1,2,8,9,12,13 /sys/class/net/eth0/device/features";
    let script = format!(
        "ip -o address show dev eth0; ip link show dev eth0; ip route; ping -c 1 10.177.0.1; \
         ping -6 -c 1 fd77::1; {offloads}"
    );
    let flags = ["--with-ns", &namespace.flag()];
    let ran = place.container(&flags, "c1", &["sh", "-c", &script]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for expected in [
        "inet 10.177.0.5/24",
        "inet6 fd77::5/64",
        "mtu 1400",
        "default via 10.177.0.1 dev eth0",
        "192.0.2.0/24 via 10.177.0.7 dev eth0  metric 9",
        "1 packets received",
        "\n111111\n",
    ] {
        assert!(ran.out.contains(expected), "{expected:?} is not in:\n{}", ran.out);
    }

    // Who shares a network shares the machine, and only while it is there.
    place.detached(&flags, "c2", &["sleep", "1000"]);
    let ran = place.container(&flags, "c3", &["ping", "-c", "1", "10.177.0.1"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    place.detached(&flags, "c4", &["sleep", "1000"]);
    assert_eq!(place.task("c2").0, place.task("c4").0);
    place.remove("c2");
    assert!(place.said(&["tasks", "exec", "--exec-id", "e", "c4", "ip", "route"]).contains("default via"));
    place.remove("c4");
    place.leaves_nothing();
    assert!(!namespace.ip("link").contains("rvm0"));
}

#[test]
fn macvlan_and_ipvlan_lead_to_the_container_but_not_without_arp() {
    let Some(place) = Place::new("vlans") else { return };
    ip("link add rvm-up type veth peer name rvm-down");
    ip("address add 10.178.0.1/24 dev rvm-up");
    ip("link set rvm-up up");
    ip("link set rvm-down up");
    for (name, kind, address) in [
        ("rvm-macvlan", "macvlan mode bridge", "10.178.0.5/24"),
        ("rvm-ipvlan", "ipvlan mode l2", "10.178.0.6/24"),
        ("rvm-ipvlan3", "ipvlan mode l3", "10.178.0.7/24"),
    ] {
        let namespace = Namespace::new(name);
        ip(&format!("link add eth0 netns {name} link rvm-down type {kind}"));
        namespace.ip(&format!("address add {address} dev eth0"));
        namespace.ip("link set eth0 up");
        let ran =
            place.container(&["--with-ns", &namespace.flag()], "c1", &["ping", "-c", "1", "10.178.0.1"]);
        if name.ends_with('3') {
            assert!(ran.error.contains("eth0") && ran.error.contains("use mode l2"), "{ran:?}");
        } else {
            assert_eq!(ran.status, Some(0), "{name}: {ran:?}");
        }
        place.leaves_nothing();
    }
    ip("link delete rvm-up");
}

#[test]
fn cni_plugins_connect_a_container() {
    let Some(place) = Place::new("cni") else { return };
    if !rvm_tests::artifact::in_lab() {
        return rvm_tests::cannot_run("the configuration of this machine's CNI is not the test's");
    }
    // Where `ctr` looks for plugins, and where Debian has them.
    if !Path::new("/opt/cni/bin").exists() {
        fs::create_dir_all("/opt/cni").unwrap();
        symlink("/usr/lib/cni", "/opt/cni/bin").unwrap();
    }
    let ranges = serde_json::json!([[{ "subnet": "10.179.0.0/24" }], [{ "subnet": "fd79::/64" }]]);
    let routes = serde_json::json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let ipam = serde_json::json!({ "type": "host-local", "ranges": ranges, "routes": routes });
    let plugin = serde_json::json!({ "type": "bridge", "bridge": "rvm-cni", "isGateway": true, "mtu": 1450, "ipam": ipam });
    let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "rvm", "plugins": [plugin] });
    fs::create_dir_all("/etc/cni/net.d").unwrap();
    fs::write("/etc/cni/net.d/10-rvm.conflist", list.to_string()).unwrap();

    let script =
        "ip -o address show dev eth0; ip link show dev eth0; ping -c 1 10.179.0.1 && ping -6 -c 1 fd79::1";
    let ran = place.run(&["run", "--rm", "--cni", "--runtime", RUNTIME, BUSYBOX, "c1", "sh", "-c", script]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for expected in ["inet 10.179.0.", "inet6 fd79::", "mtu 1450"] {
        assert!(ran.out.contains(expected), "{expected:?} is not in:\n{}", ran.out);
    }
    place.leaves_nothing();
}

/// Has a CNI plugin add an interface to a namespace, or remove it, as a runtime does.
#[track_caller]
fn plug(command: &str, namespace: &str, interface: &str, network: &serde_json::Value) {
    let kind = network["type"].as_str().unwrap();
    let mut plugin = Command::new(Path::new("/usr/lib/cni").join(kind));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), network.to_string()).unwrap();
    plugin.stdin(fs::File::open(file.path()).unwrap());
    plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", namespace).env("CNI_IFNAME", interface);
    plugin.env("CNI_NETNS", format!("/run/netns/{namespace}")).env("CNI_PATH", "/usr/lib/cni");
    let ran = run(plugin);
    assert_eq!(ran.status, Some(0), "{network}: {ran:?}");
}

#[test]
fn a_container_has_all_networks_that_plugins_made_before() {
    let Some(place) = Place::new("plugins") else { return };
    let namespace = Namespace::new("rvm-plugins");
    let ipam = |subnet: &str, routes: serde_json::Value| serde_json::json!({ "type": "host-local", "dataDir": "/run/rvm-plugins", "subnet": subnet, "routes": routes });
    let bridge = serde_json::json!({
        "cniVersion": "1.0.0", "name": "rvm-bridged", "type": "bridge", "bridge": "rvm-bridged", "isGateway": true,
        "ipam": ipam("10.180.0.0/24", serde_json::json!([])),
    });
    // The other end is reached by a route of its own, and all else through it.
    let ptp = serde_json::json!({
        "cniVersion": "1.0.0", "name": "rvm-ptp", "type": "ptp", "mtu": 1420,
        "ipam": ipam("10.181.0.0/24", serde_json::json!([{ "dst": "0.0.0.0/0" }])),
    });
    plug("ADD", "rvm-plugins", "eth0", &bridge);
    plug("ADD", "rvm-plugins", "net1", &ptp);
    let script = "ip -o address; ip route; ip link show dev net1; ping -c 1 -I eth0 10.180.0.1 && ping -c 1 -I net1 10.181.0.1";
    let ran = place.container(&["--with-ns", &namespace.flag()], "c1", &["sh", "-c", script]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for expected in [
        "inet 10.180.0.2/24",
        "inet 10.181.0.2/24",
        "default via 10.181.0.1 dev net1",
        "10.181.0.1 dev net1 scope link",
        "10.181.0.0/24 via 10.181.0.1 dev net1",
        "mtu 1420",
    ] {
        assert!(ran.out.contains(expected), "{expected:?} is not in:\n{}", ran.out);
    }
    plug("DEL", "rvm-plugins", "net1", &ptp);
    plug("DEL", "rvm-plugins", "eth0", &bridge);
    ip("link delete rvm-bridged");
    place.leaves_nothing();
}
