//! The container's specification (`config.json` of the OCI runtime specification), as containerd wrote it for a
//! runtime on the host, and what of it goes to the guest.
//!
//! Left out is what is the host's: annotations, its hooks, paths of namespaces, names of security modules' labels. The network
//! namespace is the guest's own, and so are kernel parameters of it. Bind mounts become paths of what is shared.

pub mod hosts;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup;
use crate::config;
use crate::cpusets::CpuSets;
use crate::error::ShimError;
use crate::hooks::Hooks;

/// Whose annotation it is to say which pod a container belongs to.
const POD: &str = "io.kubernetes.cri.sandbox-id";

/// Where the guest has its own files of names, and which there are: those of /etc.
const NAMES: &str = "/run/rvm/etc";
const NAME_FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Where the pod's shared directory is mounted in the guest.
pub const SHARE: &str = "/run/rvm/share";

/// A specification, as containerd wrote it.
#[derive(Clone, Debug)]
pub struct ContainerSpec(Value);

/// What goes to the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestSpec {
    /// The specification.
    pub spec: Value,
    /// Kernel parameters of the guest as a whole.
    pub sysctls: HashMap<String, String>,
    /// What of the host is bound into the container, in the order in which it is shared.
    pub binds: Vec<Bind>,
    /// What the container may use of the host.
    pub cpu_sets: CpuSets,
}

/// The pod whose namespaces its containers can share.
#[derive(Clone, Copy, Debug)]
pub struct Joinable {
    /// The process that containers' tasks have on the host: the VMM.
    pub vmm: u32,
    /// Whose namespaces they are in the guest: the first process of the pod's first container, or of the guest.
    pub first: u32,
}

/// A file or directory of the host, bound into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// With what is mounted below it.
    pub recursive: bool,
    /// The host refuses every change, of what is mounted below it as well.
    pub read_only: bool,
    /// What is mounted below it later appears as well.
    pub follows: bool,
}

impl Bind {
    /// A root file system.
    pub fn root(path: &Path) -> Self {
        Self { source: path.to_owned(), recursive: true, read_only: false, follows: true }
    }
}

/// Where a container's network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// In a namespace that is to be made, for others to fill.
    New,
    /// In the one at this path, which others made.
    At(PathBuf),
}

impl ContainerSpec {
    /// Reads it from a bundle.
    pub fn read(bundle: &Path) -> Result<Self, ShimError> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).map_err(ShimError::path("read", &path))?;
        Self::parse(&text)
    }

    /// Reads it from a bundle, if it is there: a sandbox need not have one.
    pub fn read_any(bundle: &Path) -> Result<Option<Self>, ShimError> {
        match Self::read(bundle) {
            Err(ShimError::Path { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ShimError> {
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| ShimError::Invalid { what: "config.json", reason: error.to_string() })
    }

    /// The pod that the container is in, where it is not one of its own.
    pub fn pod(&self) -> Option<&str> {
        self.annotation(POD).filter(|pod| !pod.is_empty())
    }

    /// What it has at a place, which is a JSON pointer (RFC 6901).
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// The root file system, where nobody else says where it is.
    pub fn root(&self, bundle: &Path) -> PathBuf {
        bundle.join(self.0["root"]["path"].as_str().unwrap_or("rootfs"))
    }

    /// The file of the host by which its programs find name servers, if it is given one.
    pub fn resolv_conf(&self) -> Option<&Path> {
        let mounts = self.0["mounts"].as_array()?;
        let mount = mounts.iter().rfind(|mount| mount["destination"] == "/etc/resolv.conf")?;
        mount["source"].as_str().map(Path::new)
    }

    /// The control group on the host, if it has one.
    pub fn cgroup(&self) -> Option<PathBuf> {
        cgroup::path(self.0["linux"]["cgroupsPath"].as_str()?)
    }

    /// The hooks that run on the host.
    pub fn hooks(&self) -> Result<Hooks, ShimError> {
        let hooks = self.0.get("hooks").filter(|hooks| !hooks.is_null());
        let read = hooks.map_or(Ok(Hooks::default()), |hooks| serde_json::from_value(hooks.clone()));
        let read = read.map_err(|error| ShimError::Invalid { what: "hooks", reason: error.to_string() });
        read.map(|hooks| hooks.with_annotations(&self.0["annotations"]))
    }

    /// The host name, if it has one.
    pub fn hostname(&self) -> Option<&str> {
        self.0["hostname"].as_str().filter(|name| !name.is_empty())
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.0["annotations"][name].as_str()
    }

    /// A number above 0 that CRI tells of the pod as a whole, whose first container has no limits of its own.
    fn of_pod(&self, name: &str) -> Option<u64> {
        let text = self.annotation(&format!("io.kubernetes.cri.sandbox-{name}"))?;
        text.parse().ok().filter(|number| *number > 0)
    }

    /// Bytes of memory that the pod may have, or the container, where that is limited.
    pub fn memory_limit(&self) -> Option<u64> {
        self.of_pod("memory").or_else(|| self.own_memory_limit())
    }

    fn own_memory_limit(&self) -> Option<u64> {
        self.0["linux"]["resources"]["memory"]["limit"].as_i64().and_then(|limit| u64::try_from(limit).ok())
    }

    /// Processors that the pod may use at a time, or the container, where that is limited: by time, or by a set.
    pub fn cpus(&self) -> Option<u64> {
        let by_time = match (self.of_pod("cpu-quota"), self.of_pod("cpu-period")) {
            (Some(quota), Some(period)) => Some(quota.div_ceil(period)),
            _ => self.own_cpus(),
        };
        // What is wrong in a set is told when it is applied.
        let by_set = self.cpu_sets().ok().and_then(|sets| sets.cpus.count());
        by_time.into_iter().chain(by_set).min()
    }

    /// Processors that the pod asks for, where it has no limit: CRI tells of a request as shares, 1024 for each.
    pub fn cpus_asked_for(&self) -> Option<u64> {
        self.of_pod("cpu-shares").map(|shares| shares.div_ceil(1024))
    }

    /// The host's processors and memory nodes that it may use.
    pub fn cpu_sets(&self) -> Result<CpuSets, ShimError> {
        CpuSets::of(&self.0["linux"]["resources"])
    }

    /// Refuses annotations of ours that mean nothing.
    pub fn check_annotations(&self) -> Result<(), ShimError> {
        let all = self.0["annotations"].as_object();
        config::check_annotations(all.into_iter().flatten().map(|(name, _)| name.as_str()))
    }

    fn own_cpus(&self) -> Option<u64> {
        let cpu = &self.0["linux"]["resources"]["cpu"];
        let quota = cpu["quota"].as_i64().and_then(|quota| u64::try_from(quota).ok())?;
        let period = cpu["period"].as_u64().filter(|period| *period > 0)?;
        Some(quota.div_ceil(period))
    }

    /// Where its network is. The host's own is none for a virtual machine.
    pub fn network(&self) -> Result<NetworkNamespace, ShimError> {
        let namespaces = self.0["linux"]["namespaces"].as_array();
        let network = namespaces.into_iter().flatten().find(|namespace| namespace["type"] == "network");
        match network.map(|network| network["path"].as_str().unwrap_or_default()) {
            Some("") => Ok(NetworkNamespace::New),
            Some(path) => Ok(NetworkNamespace::At(path.into())),
            None => Err(ShimError::Unsupported {
                what: "the host's network in a container".to_owned(),
                reason: "a virtual machine is not in it; give the container a network of its own",
            }),
        }
    }

    /// What goes to the guest for container `number` of the pod, which can share the namespaces of `pod`.
    pub fn for_guest(self, number: u32, pod: Option<Joinable>) -> Result<GuestSpec, ShimError> {
        let Self(mut spec) = self;
        let directory = format!("{SHARE}/{number}");
        remove(&mut spec, &["annotations"]);
        for label in LABELS {
            remove(&mut spec, &["process", label]);
        }
        remove(&mut spec, &["linux", "mountLabel"]);
        for hook in ["prestart", "createRuntime", "poststart", "poststop"] {
            remove(&mut spec, &["hooks", hook]);
        }
        if !spec["root"].is_object() {
            return Err(ShimError::Invalid { what: "config.json", reason: "it has no root".to_owned() });
        }
        spec["root"]["path"] = format!("{directory}/rootfs").into();
        hosts::namespaces(&mut spec, pod)?;
        hosts::devices(&mut spec)?;
        hosts::block_devices(&spec["linux"]["resources"])?;
        let resources = spec.get_mut("linux").and_then(|linux| linux.get_mut("resources"));
        let cpu_sets = resources.map_or(Ok(CpuSets::default()), CpuSets::take)?;
        let sysctls = take_sysctls(&mut spec);
        let binds = take_binds(&mut spec, &directory)?;
        Ok(GuestSpec { spec, sysctls, binds, cpu_sets })
    }
}

impl From<Value> for ContainerSpec {
    fn from(spec: Value) -> Self {
        Self(spec)
    }
}

impl GuestSpec {
    /// Gives the container the guest's own files of names, but for those that it has from elsewhere.
    pub fn give_names(&mut self) {
        let Some(spec) = self.spec.as_object_mut() else { return };
        let mounts = spec.entry("mounts").or_insert_with(|| json!([]));
        let Some(mounts) = mounts.as_array_mut() else { return };
        for name in NAME_FILES {
            let destination = format!("/etc/{name}");
            if mounts.iter().all(|mount| mount["destination"] != destination) {
                let source = format!("{NAMES}/{name}");
                let options = ["rbind", "rprivate"];
                mounts.push(
                    json!({ "type": "bind", "source": source, "destination": destination, "options": options }),
                );
            }
        }
    }
}

/// What of a process means nothing in the guest, which has no such modules, and where nothing has the host's labels.
const LABELS: [&str; 2] = ["apparmorProfile", "selinuxLabel"];

/// `process` of an exec as the guest can have it: Docker and CRI give it the labels of the container's first one.
pub fn process_for_guest(process: Vec<u8>) -> Vec<u8> {
    // What is no JSON is the guest's to refuse, with the place.
    let Ok(mut value) = serde_json::from_slice::<Value>(&process) else { return process };
    for label in LABELS {
        remove(&mut value, &[label]);
    }
    serde_json::to_vec(&value).unwrap_or(process)
}

fn remove(spec: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().try_fold(spec, |at, name| at.get_mut(name));
    if let Some(object) = parent.and_then(Value::as_object_mut) {
        object.remove(*last);
    }
}

/// Kernel parameters of the network, whose namespace is the guest's.
fn take_sysctls(spec: &mut Value) -> HashMap<String, String> {
    let linux = spec.get_mut("linux").and_then(|linux| linux.get_mut("sysctl"));
    let Some(all) = linux.and_then(Value::as_object_mut) else {
        return HashMap::new();
    };
    let of_guest: Vec<_> = all.keys().filter(|name| name.starts_with("net.")).cloned().collect();
    let taken = of_guest.into_iter().filter_map(|name| {
        let value = all.remove(&name)?.as_str()?.to_owned();
        Some((name, value))
    });
    taken.collect()
}

/// Bind mounts, whose sources are then in what the guest is shown.
fn take_binds(spec: &mut Value, directory: &str) -> Result<Vec<Bind>, ShimError> {
    let mut binds = Vec::new();
    for mount in spec.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let has = |options: &[&str]| {
            let mut given = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str);
            given.any(|given| options.contains(&given))
        };
        if mount["type"] != "bind" && !has(&["bind", "rbind"]) {
            continue;
        }
        let source = mount["source"].as_str().unwrap_or_default();
        if has(&["shared", "rshared"]) {
            return Err(ShimError::Unsupported {
                what: format!("the bind mount of '{source}' as shared (Bidirectional)"),
                reason: "what a container mounts is the virtual machine's and does not reach the host; use rslave \
                         (HostToContainer) or rprivate (None)",
            });
        }
        let bind = Bind {
            source: source.into(),
            recursive: has(&["rbind"]),
            read_only: has(&["ro", "rro"]),
            follows: !has(&["private", "rprivate", "unbindable", "runbindable"]),
        };
        mount["source"] = json!(format!("{directory}/mounts/{}", binds.len()));
        binds.push(bind);
    }
    Ok(binds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
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
    fn a_process_of_an_exec_has_no_labels_of_the_host_either() {
        let process =
            json!({ "args": ["true"], "apparmorProfile": "docker-default", "selinuxLabel": "a:b:c" });
        let guest: Value = serde_json::from_slice(&process_for_guest(process.to_string().into())).unwrap();
        assert_eq!(guest, json!({ "args": ["true"] }));
        for other in ["", "{", "null", "[1]"] {
            assert_eq!(process_for_guest(other.into()), other.as_bytes());
        }
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
        let hosts = json!({ "type": "bind", "source": "/srv/hosts", "destination": "/etc/hosts", "options": ["rbind"] });
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
            "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "1" },
        });
        let guest = spec(json!({ "linux": linux })).for_guest(1, None).unwrap();
        let expected = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())];
        assert_eq!(guest.sysctls, HashMap::from(expected));
        assert_eq!(guest.spec["linux"]["sysctl"], json!({ "kernel.shmmax": "1" }));
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
}
