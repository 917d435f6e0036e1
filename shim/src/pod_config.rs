//! What CRI says of a pod whose sandbox the shim is to make: `runtime.v1.PodSandboxConfig` of the Kubernetes CRI API, as
//! far as it is a machine's business. The rest is containerd's (names, log files, published ports) or that of a pause
//! container, which there is none of: its user and groups, its profiles of seccomp and AppArmor, whether its root file system is
//! read-only. What confines the pod's containers is in their own specifications. Of the pod's resources those that size a
//! machine are read: its `overhead` and the rest (huge pages, swap, `unified`) are what the kubelet has set for the control
//! group above already.
//!
//! It becomes what the machine of a pod is made by otherwise: the words of a specification.

use std::collections::{BTreeMap, HashMap};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use prost::Message;
use rvm_agent_proto::Dns;
use serde_json::{Value, json};

use crate::error::ShimError;

/// The end of the message's type name, as containerd writes it: with or without a prefix.
const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// `NamespaceMode.NODE`: the host's own.
const NODE: i32 = 2;

/// A pod.
#[derive(Clone, PartialEq, Message)]
pub struct PodConfig {
    /// Its name as its programs have it; empty: none.
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, optional, tag = "4")]
    dns: Option<DnsConfig>,
    /// All of the pod's.
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    searches: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    options: Vec<String>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
struct LinuxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
    #[prost(map = "string, string", tag = "3")]
    sysctls: HashMap<String, String>,
    #[prost(message, optional, tag = "5")]
    resources: Option<Resources>,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
    #[prost(message, optional, tag = "2")]
    selinux: Option<SeLinux>,
}

/// `SELinuxOption`.
#[derive(Clone, PartialEq, Message)]
struct SeLinux {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    role: String,
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(string, tag = "4")]
    level: String,
}

/// `UserNamespace`, without its maps of numbers.
#[derive(Clone, Copy, PartialEq, Message)]
struct UserNamespace {
    #[prost(int32, tag = "1")]
    mode: i32,
}

/// `NamespaceOption`; each a `NamespaceMode`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
    #[prost(int32, tag = "3")]
    ipc: i32,
    #[prost(message, optional, tag = "5")]
    users: Option<UserNamespace>,
}

/// `LinuxContainerResources`; 0 is no limit.
#[derive(Clone, Copy, PartialEq, Message)]
struct Resources {
    /// Microseconds.
    #[prost(int64, tag = "1")]
    cpu_period: i64,
    /// Microseconds a period.
    #[prost(int64, tag = "2")]
    cpu_quota: i64,
    /// 1024 for each processor that is asked for.
    #[prost(int64, tag = "3")]
    cpu_shares: i64,
    /// Bytes.
    #[prost(int64, tag = "4")]
    memory_limit: i64,
}

impl PodConfig {
    /// Reads the options of a sandbox. `None`: there are none, as where CRI has no part in it.
    pub fn read(options: &Any) -> Result<Option<Self>, ShimError> {
        let invalid = |reason| ShimError::Invalid { what: "the sandbox's options", reason };
        if options.type_url.is_empty() && options.value.is_empty() {
            return Ok(None);
        }
        if !options.type_url.ends_with(TYPE) {
            return Err(invalid(format!("they are of the type '{}', not {TYPE}", options.type_url)));
        }
        let pod = Self::decode(options.value.as_slice()).map_err(|error| invalid(error.to_string()))?;
        pod.check()?;
        Ok(Some(pod))
    }

    /// Refuses what would be the host's, and what a guest has not.
    fn check(&self) -> Result<(), ShimError> {
        let Some(security) = self.linux.as_ref().and_then(|linux| linux.security.as_ref()) else {
            return Ok(());
        };
        let unsupported = |what: &str, reason| Err(ShimError::Unsupported { what: what.to_owned(), reason });
        // An option that says nothing is none.
        if security.selinux.as_ref().is_some_and(|options| *options != SeLinux::default()) {
            return unsupported(
                "SELinux options of a pod (seLinuxOptions)",
                "the guest has no SELinux, and the machine's process has the label of containerd's; leave them out",
            );
        }
        let Some(modes) = security.namespaces else { return Ok(()) };
        if modes.users.is_some_and(|users| users.mode != NODE) {
            return unsupported(
                "a user namespace of a pod (hostUsers: false)",
                "its users are the guest's, and none of them is one of the host; leave hostUsers out",
            );
        }
        let hosts = [
            (modes.network, "the host's network in a pod"),
            (modes.pid, "the host's processes in a pod"),
            (modes.ipc, "the host's shared memory and queues in a pod"),
        ];
        match hosts.into_iter().find(|(mode, _)| *mode == NODE) {
            Some((_, what)) => unsupported(
                what,
                "a virtual machine is apart from them; leave the namespace to the pod, as is the default",
            ),
            None => Ok(()),
        }
    }

    /// Where its programs ask for names; `None`: as on the host.
    pub fn dns(&self) -> Option<Dns> {
        let DnsConfig { servers, searches, options } = self.dns.clone()?;
        Some(Dns { servers, search: searches, options })
    }

    /// Kernel parameters that its programs are to find.
    pub fn sysctls(&self) -> HashMap<String, String> {
        self.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default()
    }

    /// Its control group, as `linux.cgroupsPath` of a specification, where CRI names the one above it.
    pub fn cgroups_path(&self, id: &str) -> Option<String> {
        let parent = self.linux.as_ref().map(|linux| linux.cgroup_parent.as_str())?;
        let parent = Some(parent.trim_end_matches('/')).filter(|parent| !parent.is_empty())?;
        let last = parent.rsplit('/').next().unwrap_or(parent);
        Some(match last.ends_with(".slice") {
            // systemd's: SLICE:PREFIX:NAME, with the prefix of containerd's CRI.
            true => format!("{last}:cri-containerd:{id}"),
            false => format!("{parent}/{id}"),
        })
    }

    /// What it asks for of processors without being limited to it: an annotation, as containerd gives it to containers of pods.
    pub fn shares(&self) -> Option<(&'static str, String)> {
        let shares = self.linux.as_ref().and_then(|linux| linux.resources)?.cpu_shares;
        (shares > 0).then(|| ("io.kubernetes.cri.sandbox-cpu-shares", shares.to_string()))
    }

    /// Its limits, as `linux.resources` of a specification; `None`: it has none.
    pub fn resources(&self) -> Option<Value> {
        let resources = self.linux.as_ref().and_then(|linux| linux.resources)?;
        let Resources { cpu_period, cpu_quota, memory_limit, cpu_shares: _ } = resources;
        let mut limits = BTreeMap::new();
        if memory_limit > 0 {
            limits.insert("memory", json!({ "limit": memory_limit }));
        }
        if cpu_quota > 0 && cpu_period > 0 {
            limits.insert("cpu", json!({ "quota": cpu_quota, "period": cpu_period }));
        }
        (!limits.is_empty()).then(|| json!(limits))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn options(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value, ..Any::default() }
    }

    fn pod(linux: LinuxConfig) -> PodConfig {
        PodConfig { linux: Some(linux), ..PodConfig::default() }
    }

    #[test]
    fn what_cri_wrote_is_read_and_what_is_none_of_ours_skipped() {
        // hostname = 2, log_directory = 3, dns_config = 4 { servers = 1 }, linux = 8 { resources = 5 { memory = 4 } }.
        let mut value = b"\x12\x03box\x1a\x04/log\x22\x0b\x0a\x09192.0.2.1".to_vec();
        value.extend(b"\x42\x05\x2a\x03\x20\x80\x01");
        let pod = PodConfig::read(&options("runtime.v1.PodSandboxConfig", value)).unwrap().unwrap();
        assert_eq!(pod.shares(), None);
        assert_eq!(
            (pod.hostname.as_str(), pod.dns().unwrap().servers),
            ("box", vec!["192.0.2.1".to_owned()])
        );
        assert_eq!(pod.resources(), Some(json!({ "memory": { "limit": 128 } })));
        assert_eq!(PodConfig::read(&Any::default()).unwrap(), None);
        let with_prefix = options("type.googleapis.com/runtime.v1.PodSandboxConfig", Vec::new());
        assert_eq!(PodConfig::read(&with_prefix).unwrap(), Some(PodConfig::default()));
    }

    #[test]
    fn what_is_no_pod_of_cri_is_an_error() {
        for (options, words) in [
            (options("runtime.v1.ContainerConfig", Vec::new()), "runtime.v1.ContainerConfig"),
            (options("", vec![1]), "not runtime.v1.PodSandboxConfig"),
            (options("runtime.v1.PodSandboxConfig", b"\x12\xffbox".to_vec()), "options"),
        ] {
            let error = PodConfig::read(&options).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_would_be_the_hosts_is_refused_by_name() {
        for (namespaces, words) in [
            (Namespaces { network: NODE, ..Namespaces::default() }, "network"),
            (Namespaces { pid: NODE, ..Namespaces::default() }, "processes"),
            (Namespaces { ipc: NODE, ..Namespaces::default() }, "shared memory"),
        ] {
            let security = Some(Security { namespaces: Some(namespaces), selinux: None });
            let value = pod(LinuxConfig { security, ..LinuxConfig::default() }).encode_to_vec();
            let error = PodConfig::read(&options(TYPE, value)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_a_guest_has_not_is_refused_and_what_is_a_pause_containers_is_not() {
        // linux = 8 { security_context = 2 { ... } }.
        let read = |security: &[u8]| {
            let length = u8::try_from(security.len()).unwrap();
            let value = [&[0x42, length + 2, 0x12, length], security].concat();
            PodConfig::read(&options(TYPE, value)).map(drop).map_err(|error| error.to_string())
        };
        // namespace_options = 1 { userns_options = 5 { mode = 1: POD is left out, uids = 2 { length = 3 } } }.
        let users = read(b"\x0a\x06\x2a\x04\x12\x02\x18\x01").unwrap_err();
        assert!(users.contains("hostUsers: false"), "{users}");
        assert_eq!(read(b"\x0a\x04\x2a\x02\x08\x02"), Ok(()), "the node's users");
        // selinux_options = 2 { level = 4 }.
        let selinux = read(b"\x12\x04\x22\x02s0").unwrap_err();
        assert!(selinux.contains("seLinuxOptions"), "{selinux}");
        assert_eq!(read(b"\x12\x00"), Ok(()), "no option");
        // run_as_user = 3 { value = 1 }, readonly_rootfs = 4, seccomp = 9 { profile_type = 1: Localhost, localhost_ref = 2 },
        // apparmor = 10 { profile_type: Unconfined }.
        assert_eq!(read(b"\x1a\x02\x08\x07\x20\x01\x4a\x06\x08\x02\x12\x02/p\x52\x02\x08\x01"), Ok(()));
    }

    #[test]
    fn a_control_group_is_below_the_one_that_cri_names() {
        let below = |parent: &str| {
            pod(LinuxConfig { cgroup_parent: parent.to_owned(), ..LinuxConfig::default() }).cgroups_path("p1")
        };
        assert_eq!(below(""), None);
        assert_eq!(below("/kubepods/pod7"), Some("/kubepods/pod7/p1".to_owned()));
        let slice = "/kubepods.slice/kubepods-pod7.slice";
        assert_eq!(below(slice), Some("kubepods-pod7.slice:cri-containerd:p1".to_owned()));
    }

    #[test]
    fn limits_that_are_none_are_left_out() {
        let of =
            |resources| pod(LinuxConfig { resources: Some(resources), ..LinuxConfig::default() }).resources();
        assert_eq!(of(Resources::default()), None);
        let none = Resources { cpu_quota: -1, cpu_period: 100_000, ..Resources::default() };
        assert_eq!(of(none), None);
        let limited =
            Resources { cpu_quota: 150_000, cpu_period: 100_000, memory_limit: 1 << 30, cpu_shares: 2 };
        let limited = of(limited);
        let cpu = json!({ "quota": 150_000, "period": 100_000 });
        assert_eq!(limited, Some(json!({ "cpu": cpu, "memory": { "limit": 1 << 30 } })));
    }
}
