//! A container as the host sends it (config.md and config-linux.md of the OCI runtime specification), to be read into
//! the types of the `oci-spec` crate.
//!
//! Those types can read themselves, but bring an engine of regular expressions for it, and readers of what other
//! systems have: a fifth of the program, which every boot copies twice. What they have it for is refused here by its name.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Box as ConsoleSize, Hooks, Linux, LinuxCapabilities, LinuxIOPriority, Mount, PosixRlimit, Root,
    Scheduler, Spec, User,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Error;

/// A whole specification.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[serde(default)]
    oci_version: String,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    process: Option<Process>,
    hostname: Option<String>,
    domainname: Option<String>,
    hooks: Option<Hooks>,
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
    solaris: Option<IgnoredAny>,
    windows: Option<IgnoredAny>,
    vm: Option<IgnoredAny>,
    zos: Option<IgnoredAny>,
}

/// One of its processes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    terminal: Option<bool>,
    console_size: Option<ConsoleSize>,
    user: User,
    args: Option<Vec<String>>,
    command_line: Option<String>,
    env: Option<Vec<String>>,
    cwd: PathBuf,
    capabilities: Option<LinuxCapabilities>,
    rlimits: Option<Vec<PosixRlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
    io_priority: Option<LinuxIOPriority>,
    scheduler: Option<Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: Option<IgnoredAny>,
}

impl TryFrom<Container> for Spec {
    type Error = Error;

    fn try_from(container: Container) -> Result<Self, Error> {
        let Container {
            oci_version,
            root,
            mounts,
            process,
            hostname,
            domainname,
            hooks,
            annotations,
            linux,
            solaris,
            windows,
            vm,
            zos,
        } = container;
        let others = [("solaris", solaris), ("windows", windows), ("vm", vm), ("zos", zos)];
        if let Some((field, _)) = others.into_iter().find(|(_, there)| there.is_some()) {
            return Err(Error::unsupported(field, "the guest runs Linux containers"));
        }
        let mut spec = Self::default();
        spec.set_version(oci_version).set_root(root).set_mounts(mounts).set_linux(linux);
        spec.set_process(process.map(TryInto::try_into).transpose()?).set_hooks(hooks);
        spec.set_hostname(hostname).set_domainname(domainname).set_annotations(annotations);
        Ok(spec)
    }
}

impl TryFrom<Process> for oci_spec::runtime::Process {
    type Error = Error;

    fn try_from(process: Process) -> Result<Self, Error> {
        let Process {
            terminal,
            console_size,
            user,
            args,
            command_line,
            env,
            cwd,
            capabilities,
            rlimits,
            no_new_privileges,
            apparmor_profile,
            oom_score_adj,
            selinux_label,
            io_priority,
            scheduler,
            exec_cpu_affinity,
        } = process;
        if exec_cpu_affinity.is_some() {
            return Err(Error::unsupported("process.execCPUAffinity", "linux.resources.cpu.cpus does it"));
        }
        let mut process = Self::default();
        process.set_terminal(terminal).set_console_size(console_size).set_user(user).set_args(args);
        process.set_command_line(command_line).set_env(env).set_cwd(cwd).set_capabilities(capabilities);
        process.set_rlimits(rlimits).set_no_new_privileges(no_new_privileges);
        process.set_apparmor_profile(apparmor_profile).set_oom_score_adj(oom_score_adj);
        process.set_selinux_label(selinux_label).set_io_priority(io_priority).set_scheduler(scheduler);
        Ok(process)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use oci_spec::runtime::Process;
    use serde_json::{Value, json};

    use super::*;

    fn read(document: Value) -> Result<Spec, Error> {
        serde_json::from_value::<Container>(document).unwrap().try_into()
    }

    /// Every field of a Linux container and its process.
    fn whole() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": "/r", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["ro"] }],
            "process": {
                "terminal": true,
                "consoleSize": { "height": 3, "width": 4 },
                "user": { "uid": 1, "gid": 2, "umask": 3, "additionalGids": [4] },
                "args": ["a"],
                "commandLine": "a b",
                "env": ["A=1"],
                "cwd": "/w",
                "capabilities": { "bounding": ["CAP_KILL"] },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 2, "soft": 1 }],
                "noNewPrivileges": true,
                "apparmorProfile": "p",
                "oomScoreAdj": 7,
                "selinuxLabel": "l",
                "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 1 },
                "scheduler": { "policy": "SCHED_BATCH" },
            },
            "hostname": "h",
            "domainname": "d",
            "hooks": { "poststop": [{ "path": "/h" }] },
            "annotations": { "k": "v" },
            "linux": { "cgroupsPath": "/c" },
        })
    }

    #[test]
    fn a_container_is_read_as_its_own_types_would_read_it() {
        for document in
            [whole(), json!({}), json!({ "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/" } })]
        {
            let expected: Spec = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(read(document).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_for_linux_is_refused_by_its_name() {
        for field in ["solaris", "windows", "vm", "zos"] {
            let mut document = whole();
            document[field] = json!({ "anything": [1] });
            assert!(read(document).unwrap_err().to_string().starts_with(field), "{field}");
        }
    }

    #[test]
    fn a_second_place_for_the_processors_is_refused() {
        let mut document = whole()["process"].take();
        document["execCPUAffinity"] = json!({ "initial": "0-1" });
        let process: super::Process = serde_json::from_value(document).unwrap();
        let refused = Process::try_from(process).unwrap_err();
        assert!(refused.to_string().starts_with("process.execCPUAffinity is not supported"), "{refused}");
    }
}
