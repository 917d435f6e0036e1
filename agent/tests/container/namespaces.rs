//! The namespaces of a container, and what is set in them.

use std::fs;

use rvm_agent::container::Error;
use serde_json::{Value, json};

use crate::bundle::{Bundle, shell};

/// The specification with a user namespace whose root is user 100000 outside.
fn with_users(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    bundle
        .and("/linux/namespaces", json!({"type": "user"}))
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map)
}

#[test]
fn in_a_user_namespace_root_is_somebody_else_outside() {
    let script =
        "cat /proc/self/uid_map; id -u; touch /file; echo null > /dev/null; stat -c '%t:%T' /dev/null
        ls /proc/self/fd > /dev/null && echo own";
    let bundle = with_users(Bundle::script(script));
    let ran = bundle.run();
    let said = ran.said().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(said, "0 100000 65536 0 1:3 own");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.root().join("file")).unwrap());
    assert_eq!(owner, 100_000);
}

#[test]
fn one_more_process_joins_the_user_namespace() {
    let bundle = with_users(Bundle::script("echo; read -r line"));
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    running.streams.line();
    let ran = running.execute(&shell("id -u; grep CapEff /proc/self/status; readlink /proc/self/ns/user"));
    let inits = fs::read_link(format!("/proc/{}/ns/user", running.container.pid())).unwrap();
    assert_eq!(ran.said(), format!("0\nCapEff:\t00000000a80425fb\n{}\n", inits.display()));
    assert_eq!(running.end().status, 1);
}

#[test]
fn a_map_without_root_or_without_its_namespace_is_refused() {
    let map = json!([{"containerID": 1, "hostID": 100_000, "size": 10}]);
    let bundle =
        Bundle::script("").with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map.clone());
    assert!(matches!(bundle.refused(), Error::Invalid { field, .. } if field == "linux.uidMappings"));
    let bundle = with_users(Bundle::script("")).with("/linux/gidMappings", map);
    assert!(matches!(bundle.refused(), Error::Invalid { field, .. } if field == "linux.gidMappings"));
}

#[test]
fn names_are_the_containers_own() {
    let bundle =
        Bundle::script("hostname; cat /proc/sys/kernel/domainname").with("/domainname", json!("example"));
    assert_eq!(bundle.run().said(), "test\nexample\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "test");
}

#[test]
fn sysctls_of_its_namespaces_are_set() {
    let sysctls = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096", "fs/mqueue/msg_max": "20"});
    let script = "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax fs/mqueue/msg_max";
    assert_eq!(Bundle::script(script).with("/linux/sysctl", sysctls).run().said(), "1\n4096\n20\n");
}

#[test]
fn sysctls_of_the_whole_guest_or_out_of_their_place_are_refused() {
    for (name, unsupported) in
        [("vm.swappiness", true), ("kernel.pid_max", true), ("net.../../vm.swappiness", false)]
    {
        match Bundle::script("").with("/linux/sysctl", json!({name: "1"})).refused() {
            Error::Unsupported { field, .. } => assert!(unsupported, "{field}"),
            Error::Invalid { field, .. } => assert!(!unsupported, "{field}"),
            err => panic!("{name}: {err}"),
        }
    }
}

#[test]
fn clocks_are_set_ahead_in_a_time_namespace() {
    let script = "read -r up idle < /proc/uptime; [ ${up%.*} -ge 1000000 ] && echo ahead";
    let offsets = json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}});
    let bundle = Bundle::script(script)
        .and("/linux/namespaces", json!({"type": "time"}))
        .with("/linux/timeOffsets", offsets.clone());
    assert_eq!(bundle.run().said(), "ahead\n");
    let bundle = Bundle::script(script).with("/linux/timeOffsets", offsets);
    assert!(matches!(bundle.refused(), Error::Invalid { field, .. } if field == "linux.timeOffsets"));
}

#[test]
fn a_container_joins_namespaces_of_another() {
    let first = Bundle::script("echo; read -r line");
    let mut running = first.create().unwrap();
    running.container.start().unwrap();
    running.streams.line();
    let file = |name: &str| json!(format!("/proc/{}/ns/{name}", running.container.pid()));
    let namespaces = json!([
        {"type": "mount"}, {"type": "cgroup"},
        {"type": "pid", "path": file("pid")}, {"type": "uts", "path": file("uts")},
        {"type": "ipc", "path": file("ipc")}, {"type": "network", "path": file("net")},
    ]);
    let script = "cd /proc/self/ns; for ns in pid uts ipc net; do readlink $ns; done";
    let mut second = Bundle::script(script).with("/linux/namespaces", namespaces);
    second.spec.as_object_mut().unwrap().remove("hostname");
    let expected = |name: &str| {
        let link = fs::read_link(format!("/proc/{}/ns/{name}", running.container.pid())).unwrap();
        format!("{}\n", link.display())
    };
    assert_eq!(second.run().said(), ["pid", "uts", "ipc", "net"].map(expected).concat());
    running.end_by_force();
}

#[test]
fn without_a_namespace_the_guests_is_seen() {
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}]);
    let mut bundle =
        Bundle::script("hostname").with("/linux/namespaces", namespaces).with("/mounts", mounts());
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    assert_eq!(bundle.run().said(), fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
}

fn mounts() -> Value {
    json!([{"destination": "/proc", "type": "proc", "source": "proc"}])
}
