use super::*;

/// Those that every container has, and these.
fn namespaces(more: &[Value]) -> Value {
    let all = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    let named = |kind: &Value| more.iter().any(|other| other["type"] == *kind);
    all.iter().filter(|own| !named(&own["type"])).chain(more).cloned().collect()
}

fn spec(changes: Value) -> ContainerSpec {
    let mut spec = json!({
        "root": { "path": "rootfs" },
        "process": { "args": ["true"], "apparmorProfile": "cri-containerd.apparmor.d" },
        "linux": { "namespaces": namespaces(&[]) },
    });
    for (name, value) in changes.as_object().unwrap() {
        spec[name] = value.clone();
    }
    ContainerSpec(spec)
}

#[test]
fn what_is_the_hosts_stays_on_the_host() {
    let hooks =
        json!({ "prestart": [{ "path": "/bin/true" }], "startContainer": [{ "path": "/bin/false" }] });
    let spec = spec(json!({ "annotations": { "a": "b" }, "hooks": hooks }));
    assert_ne!(spec.hooks().unwrap(), Hooks::default());
    let guest = spec.for_guest(7, None).unwrap();
    let expected = json!({
        "root": { "path": "/run/rvm/share/7/rootfs" },
        "process": { "args": ["true"] },
        "hooks": { "startContainer": [{ "path": "/bin/false" }] },
        "linux": { "namespaces": (["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }))) },
    });
    assert_eq!(guest.spec, expected);
}

#[test]
fn bind_mounts_are_found_in_the_share() {
    let mounts = json!([
        { "type": "proc", "source": "proc", "destination": "/proc" },
        { "type": "bind", "source": "/srv/a", "destination": "/a", "options": ["rbind", "ro"] },
        { "source": "/srv/b", "destination": "/b", "options": ["bind", "rprivate"] },
    ]);
    let guest = spec(json!({ "mounts": mounts })).for_guest(1, None).unwrap();
    let a = Bind { source: "/srv/a".into(), recursive: true, read_only: true, follows: true };
    let b = Bind { source: "/srv/b".into(), recursive: false, read_only: false, follows: false };
    assert_eq!(guest.binds, [a, b]);
    let sources: Vec<_> = guest.spec["mounts"].as_array().unwrap().iter().map(|m| &m["source"]).collect();
    assert_eq!(sources, ["proc", "/run/rvm/share/1/mounts/0", "/run/rvm/share/1/mounts/1"]);
}

#[test]
fn mounts_that_are_to_reach_the_host_are_refused() {
    let options = json!(["rbind", "rshared"]);
    let mount = |kind: &str| {
        let mount = json!({ "type": kind, "source": "/srv/a", "destination": "/a", "options": options });
        spec(json!({ "mounts": [mount] })).for_guest(1, None)
    };
    let error = mount("bind").unwrap_err().to_string();
    assert!(error.contains("'/srv/a' as shared (Bidirectional)") && error.contains("rslave"), "{error}");
    let error = mount("none").unwrap_err().to_string();
    assert!(error.contains("'/srv/a' as shared"), "{error}");
}

#[test]
fn files_of_names_are_the_guests_where_nobody_gave_others() {
    let hosts =
        json!({ "type": "bind", "source": "/srv/hosts", "destination": "/etc/hosts", "options": ["rbind"] });
    for (mounts, count) in [(json!([hosts]), 3), (json!(null), 0), (json!([]), 3)] {
        let mut guest = spec(json!({ "mounts": mounts })).for_guest(1, None).unwrap();
        guest.give_names();
        let mounts = guest.spec["mounts"].as_array().cloned().unwrap_or_default();
        assert_eq!(mounts.len(), count, "{mounts:?}");
        let from_host = mounts.iter().filter(|mount| mount["source"] == "/run/rvm/share/1/mounts/0");
        assert!(from_host.into_iter().all(|mount| mount["destination"] == "/etc/hosts"), "{mounts:?}");
    }
}

#[test]
fn parameters_of_the_network_are_the_guests() {
    let linux = json!({
        "namespaces": namespaces(&[]),
        "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "1", "net.core.somaxconn": 7 },
    });
    let guest = spec(json!({ "linux": linux })).for_guest(1, None).unwrap();
    let expected = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())];
    assert_eq!(guest.sysctls, HashMap::from(expected));
    assert_eq!(guest.spec["linux"]["sysctl"], json!({ "kernel.shmmax": "1", "net.core.somaxconn": 7 }));
}

#[test]
fn namespaces_of_the_pod_are_its_first_containers_and_others_are_refused() {
    let ipc = |path: &str| {
        let all = namespaces(&[json!({ "type": "ipc", "path": path })]);
        spec(json!({ "linux": { "namespaces": all } }))
    };
    let pod = Joinable { vmm: 4711, first: 31 };
    let guest = ipc("/proc/4711/ns/ipc").for_guest(2, Some(pod)).unwrap();
    let joined = json!({ "type": "ipc", "path": "/proc/31/ns/ipc" });
    assert!(guest.spec["linux"]["namespaces"].as_array().unwrap().contains(&joined), "{}", guest.spec);
    for (path, pod) in [
        ("/proc/4711/ns/ipc", None),
        ("/proc/4712/ns/ipc", Some(pod)),
        ("/proc/4711/ns/pid", Some(pod)),
        ("/run/ns/4711", Some(pod)),
    ] {
        let error = ipc(path).for_guest(1, pod).unwrap_err().to_string();
        assert!(error.contains(&format!("the ipc namespace '{path}'")), "{error}");
    }
}

#[test]
fn a_container_without_a_namespace_of_its_own_is_refused() {
    for (kind, what) in
        [("pid", "the host's processes"), ("ipc", "shared memory"), ("uts", "the host's name")]
    {
        let mut all = namespaces(&[]);
        all.as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
        let error = spec(json!({ "linux": { "namespaces": all } })).for_guest(1, None).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn the_network_is_new_or_others_but_not_the_hosts() {
    let network = |namespaces: Value| spec(json!({ "linux": { "namespaces": namespaces } })).network();
    assert_eq!(network(json!([{ "type": "network" }])).unwrap(), NetworkNamespace::New);
    let at = network(json!([{ "type": "network", "path": "/run/netns/a" }])).unwrap();
    assert_eq!(at, NetworkNamespace::At("/run/netns/a".into()));
    let error = network(json!([{ "type": "pid" }])).unwrap_err().to_string();
    assert!(error.contains("the host's network"), "{error}");
}

#[test]
fn limits_of_the_hosts_block_devices_are_refused() {
    let limited = |resources: Value| {
        let linux = json!({ "namespaces": namespaces(&[]), "resources": resources });
        spec(json!({ "linux": linux })).for_guest(1, None).map(drop).map_err(|error| error.to_string())
    };
    let of_all = json!({ "weight": 300, "throttleReadBpsDevice": [] });
    assert_eq!(limited(json!({ "blockIO": of_all, "unified": { "io.weight": "default 200" } })), Ok(()));
    let device = json!([{ "major": 254, "minor": 0, "rate": 1 }]);
    assert_eq!(
        limited(json!({ "blockIO": { "throttleWriteIOPSDevice": device } })).unwrap_err(),
        "rvm does not support linux.resources.blockIO.throttleWriteIOPSDevice for the device 254:0: it is the \
         host's, and what a virtual machine has of these numbers is another"
    );
    let error = limited(json!({ "unified": { "io.max": "254:0 rbps=1" } })).unwrap_err();
    assert!(error.contains("'io.max', for the device in \"254:0 rbps=1\""), "{error}");
}

#[test]
fn a_device_of_the_host_is_refused_and_left_out_of_a_privileged_container() {
    let devices = json!([
        { "type": "c", "path": "/dev/net/tun", "major": 10, "minor": 200 },
        { "type": "c", "path": "/dev/kvm", "major": 10, "minor": 232 },
    ]);
    let with = |rules: Value| {
        let linux = json!({
            "namespaces": namespaces(&[]),
            "devices": devices,
            "resources": { "devices": rules },
        });
        spec(json!({ "linux": linux })).for_guest(1, None)
    };
    let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10 }]);
    let error = with(rules).unwrap_err().to_string();
    assert!(error.contains("/dev/kvm"), "{error}");
    let privileged = with(json!([{ "allow": true, "access": "rwm" }])).unwrap();
    assert_eq!(privileged.spec["linux"]["devices"], json!([devices[0]]));
}

#[test]
fn limits_are_as_many_as_are_needed() {
    let resources =
        json!({ "memory": { "limit": 64 << 20 }, "cpu": { "quota": 150_000, "period": 100_000 } });
    let limited = spec(json!({ "linux": { "resources": resources } }));
    assert_eq!((limited.memory_limit(), limited.cpus()), (Some(64 << 20), Some(2)));
    let unlimited =
        spec(json!({ "linux": { "resources": { "memory": { "limit": -1 }, "cpu": { "quota": -1 } } } }));
    assert_eq!((unlimited.memory_limit(), unlimited.cpus()), (None, None));
    let pod = spec(json!({ "annotations": {
        "io.kubernetes.cri.sandbox-memory": "1073741824",
        "io.kubernetes.cri.sandbox-cpu-quota": "250000",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
    } }));
    assert_eq!((pod.memory_limit(), pod.cpus()), (Some(1 << 30), Some(3)));
}

#[test]
fn a_set_of_processors_is_as_many_and_stays_on_the_host() {
    let with = |cpu: Value| {
        spec(json!({ "linux": {
        "namespaces": namespaces(&[]),
        "resources": { "cpu": cpu },
    } }))
    };
    let own = with(json!({ "cpus": "4-6", "mems": "1" }));
    assert_eq!(own.cpus(), Some(3));
    let guest = own.for_guest(1, None).unwrap();
    assert_eq!((guest.cpu_sets.cpus.count(), guest.cpu_sets.mems.list()), (Some(3), "1".to_owned()));
    assert_eq!(guest.spec["linux"]["resources"], json!({ "cpu": {} }));
    // The smaller one counts.
    assert_eq!(with(json!({ "cpus": "0-3", "quota": 150_000, "period": 100_000 })).cpus(), Some(2));
    assert_eq!(with(json!({ "cpus": "7", "quota": 150_000, "period": 100_000 })).cpus(), Some(1));
    assert!(with(json!({ "cpus": "many" })).for_guest(1, None).is_err());
}

#[test]
fn a_pod_without_a_limit_asks_for_processors_by_shares() {
    let pod = |shares: &str| {
        let annotations = json!({ "io.kubernetes.cri.sandbox-cpu-shares": shares });
        spec(json!({ "annotations": annotations })).cpus_asked_for()
    };
    assert_eq!(
        [pod("2"), pod("1024"), pod("2560"), pod("0"), pod("x")],
        [Some(1), Some(1), Some(3), None, None]
    );
}
