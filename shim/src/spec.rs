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
    // What is no text stays, and is refused by the guest.
    let is_guests = |(name, value): &(&String, &Value)| name.starts_with("net.") && value.is_string();
    let of_guest: Vec<_> = all.iter().filter(is_guests).map(|(name, _)| name.clone()).collect();
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
mod tests;
