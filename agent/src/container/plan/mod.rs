//! What a container is to be: the OCI specification, checked, as numbers that the kernel takes.
//!
//! Everything is refused here that is not supported or cannot be meant; nothing is opened, nothing is asked of
//! the kernel. The plan goes to the process that makes the container ([`super::child()`]).

pub mod mounts;
pub mod namespaces;
pub mod process;

use std::path::PathBuf;

use oci_spec::runtime::{Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

use super::Error;
use mounts::Mount;
use namespaces::{IdMaps, Namespaces};
use process::ProcessPlan;

/// Everything that [`super::child()`] needs to know of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub id: String,
    /// Those it gets, and those it joins.
    pub namespaces: Namespaces,
    /// Those of its user namespace, if it gets one.
    pub id_maps: Option<IdMaps>,
    /// Of its root file system, in the guest.
    pub root: PathBuf,
    /// Nothing can be written to the root file system.
    pub read_only: bool,
    /// MS_* of `linux.rootfsPropagation`.
    pub propagation: u64,
    /// In the order of mounting.
    pub mounts: Vec<Mount>,
    /// Beside those every container has.
    pub devices: Vec<Device>,
    /// Of the container: what cannot be read.
    pub masked: Vec<PathBuf>,
    /// Of the container: what cannot be written.
    pub read_only_paths: Vec<PathBuf>,
    /// Names with dots, and their values.
    pub sysctls: Vec<(String, String)>,
    /// Of its UTS namespace.
    pub host_name: Option<String>,
    /// Of its UTS namespace.
    pub domain_name: Option<String>,
    /// `hooks.startContainer`.
    pub hooks: Vec<Hook>,
    /// Its first process.
    pub process: ProcessPlan,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// In the container.
    pub path: PathBuf,
    /// S_IFCHR, S_IFBLK or S_IFIFO.
    pub kind: u32,
    /// Number of the driver.
    pub major: u32,
    /// Number of the device.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A program that runs in the container before the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// In the container.
    pub path: PathBuf,
    /// From the program's name on.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// Seconds it may take.
    pub timeout: Option<u64>,
}

impl Plan {
    /// Paths of the guest that are bound into the container.
    pub fn bound(&self) -> Vec<PathBuf> {
        let bound = self.mounts.iter().filter_map(|mount| match &mount.source {
            mounts::Source::Bind { path, .. } => Some(path.clone()),
            mounts::Source::GuestCgroups | mounts::Source::New { .. } => None,
        });
        bound.collect()
    }

    /// Checks the specification of the container `id`, for a process with a terminal if `terminal`.
    pub fn of(id: &str, spec: &Spec, terminal: bool) -> Result<Self, Error> {
        let linux = spec.linux().clone().unwrap_or_default();
        let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root", "it is missing"))?;
        if !root.path().is_absolute() {
            return Err(Error::invalid("root.path", "it is not absolute"));
        }
        refuse_in_linux(&linux)?;
        let namespaces = Namespaces::of(&linux)?;
        let id_maps = namespaces::id_maps(&linux, &namespaces)?;
        let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "it is missing"))?;
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let names = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
        for (field, name) in names {
            if name.is_some() && !namespaces.has(libc::CLONE_NEWUTS) {
                return Err(Error::invalid(field, "the container has no UTS namespace of its own"));
            }
        }
        Ok(Self {
            id: id.to_owned(),
            root: root.path().clone(),
            read_only: root.readonly().unwrap_or_default(),
            propagation: propagation(linux.rootfs_propagation().as_deref())?,
            mounts: mounts::plan(mounts, &namespaces, id_maps.as_ref())?,
            devices: linux.devices().iter().flatten().map(device).collect::<Result<_, _>>()?,
            masked: paths("linux.maskedPaths", linux.masked_paths().as_deref())?,
            read_only_paths: paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            sysctls: namespaces::sysctls(&linux, &namespaces)?,
            host_name: spec.hostname().clone(),
            domain_name: spec.domainname().clone(),
            hooks: spec.hooks().as_ref().map_or(Ok(Vec::new()), hooks)?,
            process: ProcessPlan::of(process, &linux, terminal)?,
            namespaces,
            id_maps,
        })
    }
}

/// Refuses what the guest cannot do, or leaves to others.
fn refuse_in_linux(linux: &Linux) -> Result<(), Error> {
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    let refused = [
        ("linux.netDevices", linux.net_devices().is_some(), "network devices are set up by the sandbox"),
        ("linux.mountLabel", label, "the guest's kernel has no SELinux"),
        ("linux.intelRdt", linux.intel_rdt().is_some(), "a guest has no cache to divide"),
        ("linux.memoryPolicy", linux.memory_policy().is_some(), "a guest has one memory node"),
    ];
    match refused.into_iter().find(|(_, there, _)| *there) {
        Some((field, _, reason)) => Err(Error::unsupported(field, reason)),
        None => Ok(()),
    }
}

/// MS_* by the word of the specification.
fn propagation(word: Option<&str>) -> Result<u64, Error> {
    match word.unwrap_or_default() {
        "" => Ok(libc::MS_SLAVE | libc::MS_REC),
        word => mounts::propagation(word)
            .ok_or_else(|| Error::invalid("linux.rootfsPropagation", format!("there is no {word:?}"))),
    }
}

/// Paths of the container; they have to be absolute.
fn paths(field: &str, paths: Option<&[String]>) -> Result<Vec<PathBuf>, Error> {
    let paths = paths.unwrap_or_default().iter().map(PathBuf::from);
    let absolute = |path: PathBuf| match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::invalid(field, format!("{} is not absolute", path.display()))),
    };
    paths.map(absolute).collect()
}

fn device(device: &LinuxDevice) -> Result<Device, Error> {
    let field = |name: &str| format!("linux.devices[{}].{name}", device.path().display());
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(Error::invalid(field("type"), "a node is not of all types")),
    };
    // A FIFO has no numbers.
    let number = |name, number: i64| match kind {
        libc::S_IFIFO => Ok(0),
        _ => u32::try_from(number).map_err(|_| Error::invalid(field(name), "it is out of bounds")),
    };
    Ok(Device {
        path: device.path().clone(),
        kind,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
    })
}

/// Hooks run where their paths mean something: in the container. The others name programs of the runtime's own
/// file system, and the guest's has none.
fn hooks(hooks: &Hooks) -> Result<Vec<Hook>, Error> {
    #[allow(deprecated, reason = "it is refused, as what replaced it")]
    let prestart = hooks.prestart();
    let of_the_runtime = [
        ("hooks.prestart", prestart),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.createContainer", hooks.create_container()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    for (field, there) in of_the_runtime {
        if there.as_ref().is_some_and(|there| !there.is_empty()) {
            return Err(Error::unsupported(
                field,
                "its programs are the host's, and the guest has none of them",
            ));
        }
    }
    let plan = |hook: &oci_spec::runtime::Hook| {
        let field = "hooks.startContainer";
        if !hook.path().is_absolute() {
            return Err(Error::invalid(field, format!("{} is not absolute", hook.path().display())));
        }
        let timeout =
            hook.timeout().map(|seconds| u64::try_from(seconds).ok().filter(|seconds| *seconds > 0));
        if timeout == Some(None) {
            return Err(Error::invalid(field, "a timeout is more than 0"));
        }
        let args = hook.args().clone().unwrap_or_else(|| vec![hook.path().display().to_string()]);
        let env = hook.env().clone().unwrap_or_default();
        process::no_zero_bytes(field, args.iter().chain(&env))?;
        Ok(Hook { path: hook.path().clone(), args, env, timeout: timeout.flatten() })
    };
    hooks.start_container().iter().flatten().map(plan).collect()
}

/// The filter of the specification, if it has one.
fn filter(seccomp: Option<&LinuxSeccomp>) -> Result<Option<super::seccomp::Filter>, Error> {
    seccomp.map(super::seccomp::compile).transpose()
}
