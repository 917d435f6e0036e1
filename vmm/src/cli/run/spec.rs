//! The container of a `rvm run`, as the OCI runtime specification has it: what Docker gives a container by default,
//! then what the image says, then what the flags say.
//!
//! The network namespace is the guest's: the whole virtual machine is this container's. There is no system call
//! filter unless one is asked for: the kernel behind the calls is the container's own.

use std::collections::BTreeMap;

use oci_spec::image;
use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::RunError;
use super::args::RunArgs;
use super::environment;
use super::values::{Cpus, SecurityOption, Size};

/// Capabilities of a container by default: Docker's.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability of Linux 6.12 (linux/capability.h).
const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Bytes of /dev/shm by default.
const SHM_SIZE: u64 = 64 << 20;

/// What the specification needs to know beside flags and image.
pub struct Placed<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Where the root file system is in the guest.
    pub rootfs: &'a str,
    /// Directories of the guest, bound to paths of the container.
    pub binds: Vec<(String, String, bool)>,
    /// Most memory, in bytes.
    pub memory: Size,
}

/// The specification of the container that `args` and the image mean, as the JSON that the agent gets.
///
/// The specification's own types are left to the agent: reading them takes a regular expression's engine, whose tables of
/// addresses every start of this program would pay for (adr 10).
pub fn spec(args: &RunArgs, image: &image::Config, placed: Placed<'_>) -> Result<Value, RunError> {
    let capabilities = capabilities(&args.cap_add, &args.cap_drop)?;
    let mut process = json!({
        "terminal": args.tty,
        "user": { "uid": 0, "gid": 0 },
        "args": command(args, image)?,
        "env": environment::compose(args, image, placed.hostname)?,
        "cwd": args.workdir.clone().or_else(|| image.working_dir().clone()).filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": args.security_opt.contains(&SecurityOption::NoNewPrivileges),
    });
    if !args.ulimit.is_empty() {
        process["rlimits"] = args
            .ulimit
            .iter()
            .map(|limit| json!({ "type": limit.name, "soft": limit.soft, "hard": limit.hard }))
            .collect();
    }
    let open = args.security_opt.contains(&SecurityOption::SystemPathsUnconfined);
    let paths = |paths: &'static [&'static str]| if open { &[][..] } else { paths };
    let namespaces = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": "/container",
        "resources": resources(args, placed.memory),
        "maskedPaths": paths(MASKED_PATHS),
        "readonlyPaths": paths(READONLY_PATHS),
    });
    let own: Map<String, Value> = sysctls(&args.sysctl)?
        .into_iter()
        .filter(|(name, _)| !is_of_guest(name))
        .map(|(name, value)| (name, value.into()))
        .collect();
    if !own.is_empty() {
        linux["sysctl"] = Value::Object(own);
    }
    if let Some(profile) = seccomp(&args.security_opt)? {
        linux["seccomp"] = profile;
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "root": { "path": placed.rootfs, "readonly": args.read_only },
        "hostname": placed.hostname,
        "process": process,
        "mounts": mounts(args, &placed),
        "linux": linux,
    }))
}

/// The image's entry point and command, or what the flags put in their place.
fn command(args: &RunArgs, image: &image::Config) -> Result<Vec<String>, RunError> {
    let of_image = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let (mut words, rest) = match (&args.entrypoint, args.command.is_empty()) {
        // As with Docker, an entry point of the user's own leaves the image's command out.
        (Some(entry), _) => (
            Some(entry.clone()).filter(|entry| !entry.is_empty()).into_iter().collect(),
            args.command.clone(),
        ),
        (None, true) => (of_image(image.entrypoint()), of_image(image.cmd())),
        (None, false) => (of_image(image.entrypoint()), args.command.clone()),
    };
    words.extend(rest);
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(RunError::NoCommand(args.image.clone())),
    }
}

fn capabilities(add: &[String], drop: &[String]) -> Result<Vec<String>, RunError> {
    let plain = |names: &[String]| {
        names
            .iter()
            .map(|name| {
                let upper = name.to_ascii_uppercase();
                let plain = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
                match plain == "ALL" || ALL_CAPABILITIES.contains(&plain.as_str()) {
                    true => Ok(plain),
                    false => Err(RunError::Capability(name.clone())),
                }
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let (add, drop) = (plain(add)?, plain(drop)?);
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let base = match (all(&add), all(&drop)) {
        (true, _) => ALL_CAPABILITIES,
        (false, true) => &[],
        (false, false) => CAPABILITIES,
    };
    let named = |names: &[String], name: &str| names.iter().any(|other| other == name);
    let kept = ALL_CAPABILITIES
        .iter()
        .filter(|name| (base.contains(name) && !named(&drop, name)) || named(&add, name));
    Ok(kept.map(|name| format!("CAP_{name}")).collect())
}

fn resources(args: &RunArgs, memory: Size) -> Value {
    // Swap is memory and swap together: none.
    let mut resources = json!({
        "memory": { "limit": memory.0, "swap": memory.0 },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    if args.pids_limit > 0 {
        resources["pids"] = json!({ "limit": args.pids_limit });
    }
    if let Some(quota) = args.cpus.and_then(Cpus::quota) {
        resources["cpu"] = json!({ "quota": quota, "period": Cpus::PERIOD });
    }
    resources
}

/// Kernel parameters by name.
pub fn sysctls(given: &[String]) -> Result<BTreeMap<String, String>, RunError> {
    let pairs = given.iter().map(|text| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(RunError::Sysctl(text.clone())),
    });
    pairs.collect()
}

/// What every guest's kernel is told unless the command line says otherwise. A limit of memory is on what is used, not on
/// what is asked for: programs that reserve much and use little are at home in containers, whose hosts have much.
pub const GUEST_SYSCTL: (&str, &str) = ("vm.overcommit_memory", "1");

/// Whether a parameter is the whole guest's, and not one of a namespace that the container has of its own.
pub fn is_of_guest(name: &str) -> bool {
    const OF_CONTAINER: [&str; 7] = [
        "kernel.auto_msgmni",
        "kernel.msg",
        "kernel.sem",
        "kernel.shm",
        "kernel.hostname",
        "kernel.domainname",
        "fs.mqueue.",
    ];
    !OF_CONTAINER.iter().any(|beginning| name.starts_with(beginning))
}

fn mounts(args: &RunArgs, placed: &Placed<'_>) -> Vec<Value> {
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({ "type": kind, "source": source, "destination": destination, "options": options });
    let shm = format!("size={}", args.shm_size.map_or(SHM_SIZE, |size| size.0));
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    for name in ["resolv.conf", "hosts", "hostname"] {
        let (source, destination) = (format!("/run/rvm/etc/{name}"), format!("/etc/{name}"));
        mounts.push(mount("bind", &source, &destination, &["rbind", "rprivate", "rw"]));
    }
    for tmpfs in &args.tmpfs {
        let mut options = vec!["nosuid", "nodev", "noexec"];
        options.extend(tmpfs.options.iter().map(String::as_str));
        mounts.push(mount("tmpfs", "tmpfs", &tmpfs.destination, &options));
    }
    for (source, destination, read_only) in &placed.binds {
        let mode = if *read_only { "ro" } else { "rw" };
        mounts.push(mount("bind", source, destination, &["rbind", "rprivate", mode]));
    }
    // A mount point that lies in another mount comes after it.
    mounts.sort_by_key(|mount| mount["destination"].as_str().map_or(0, |path| path.matches('/').count()));
    mounts
}

/// The profile that a file has, `linux.seccomp` of the specification. Docker's own form has conditions that only
/// Docker knows; a file that uses them is refused.
fn seccomp(options: &[SecurityOption]) -> Result<Option<Value>, RunError> {
    let file = options.iter().rev().find_map(|option| match option {
        SecurityOption::Seccomp(file) => Some(Some(file)),
        SecurityOption::SeccompUnconfined => Some(None),
        _ => None,
    });
    let Some(path) = file.flatten() else {
        return Ok(None);
    };
    let unusable = |reason: String| RunError::Seccomp { path: path.clone(), reason };
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let profile: Value = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
    if !profile.is_object() {
        return Err(unusable("it is no JSON object".to_owned()));
    }
    let calls = profile["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let conditional = |call: &Value| {
        ["includes", "excludes"]
            .iter()
            .any(|key| call[key].as_object().is_some_and(|object| !object.is_empty()))
    };
    if profile.get("archMap").is_some() || calls.iter().any(conditional) {
        let reason = "it has 'archMap', 'includes' or 'excludes', which only Docker knows; give a profile as the OCI \
                      runtime specification has it";
        return Err(unusable(reason.to_owned()));
    }
    LinuxSeccomp::deserialize(&profile).map_err(|error| unusable(error.to_string()))?;
    Ok(Some(profile))
}
