//! What is not supported is refused by its name in the specification, never ignored. What is refused as it is read,
//! `wire` tests.

use rvm_agent::container::Error;
use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let hook = json!([{"path": "/bin/true"}]);
    for (pointer, value, field) in [
        ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("a_u:a_r:a_t:s0"), "process.selinuxLabel"),
        ("/process/commandLine", json!("a b"), "process.commandLine"),
        ("/process/user/username", json!("a"), "process.user.username"),
        ("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1}), "process.scheduler"),
        ("/hooks", json!({"prestart": hook}), "hooks.prestart"),
        ("/hooks", json!({"createRuntime": hook}), "hooks.createRuntime"),
        ("/hooks", json!({"createContainer": hook}), "hooks.createContainer"),
        ("/hooks", json!({"poststart": hook}), "hooks.poststart"),
        ("/hooks", json!({"poststop": hook}), "hooks.poststop"),
        ("/linux/personality", json!({"domain": "LINUX", "flags": ["A"]}), "linux.personality.flags"),
        ("/linux/mountLabel", json!("a_u:a_r:a_t:s0"), "linux.mountLabel"),
        ("/linux/intelRdt", json!({"closID": "a"}), "linux.intelRdt"),
        ("/linux/netDevices", json!({"eth1": {}}), "linux.netDevices"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "linux.memoryPolicy"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces without mount"),
        (
            "/linux/namespaces",
            json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
            "linux.namespaces[mnt].path",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction SCMP_ACT_NOTIFY",
        ),
        ("/linux/resources", json!({"memory": {"swappiness": 1}}), "linux.resources.memory.swappiness"),
        ("/mounts/0/options", json!(["remount"]), "mounts[/proc].options remount"),
        ("/mounts/0/options", json!(["tmpcopyup"]), "mounts[/proc].options tmpcopyup"),
    ] {
        match Bundle::script("").with(pointer, value).refused() {
            Error::Unsupported { field: named, .. } => assert_eq!(named, field),
            err => panic!("{field}: {err}"),
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused_by_its_name() {
    for (pointer, value, field) in [
        ("/root/path", json!("relative"), "root.path"),
        ("/process", json!(null), "process"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\0b"]), "process.args"),
        ("/process/env", json!(["A=\0"]), "process.env"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "process.rlimits[RLIMIT_CORE]",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority",
        ),
        ("/process/capabilities", json!({"effective": ["CAP_KILL"]}), "process.capabilities.effective"),
        ("/process/capabilities", json!({"ambient": ["CAP_KILL"]}), "process.capabilities.ambient"),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/maskedPaths", json!(["relative"]), "linux.maskedPaths"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "linux.namespaces[mnt]"),
        ("/linux/namespaces", json!([{"type": "mount"}]), "hostname"),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}]),
            "linux.devices[/dev/x].major",
        ),
        ("/mounts/0/type", json!(null), "mounts[/proc].type"),
        (
            "/mounts/0",
            json!({"destination": "/data", "source": "relative", "options": ["bind"]}),
            "mounts[/data].source",
        ),
    ] {
        match Bundle::script("").with(pointer, value).refused() {
            Error::Invalid { field: named, .. } => assert_eq!(named, field),
            err => panic!("{field}: {err}"),
        }
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_the_step() {
    for (pointer, value, step) in [
        ("/root/path", json!("/nonexistent"), "take root.path /nonexistent"),
        (
            "/mounts/0",
            json!({"destination": "/data", "source": "/nonexistent", "options": ["bind"]}),
            "mount /nonexistent on /data",
        ),
        (
            "/mounts/0",
            json!({"destination": "/data", "type": "nofs", "source": "nofs"}),
            "mount on /data (nofs)",
        ),
        ("/process/cwd", json!("/bin/sh"), "enter process.cwd /bin/sh"),
    ] {
        match Bundle::script("").with(pointer, value).refused() {
            Error::Kernel { step: named, .. } => assert_eq!(named, step),
            err => panic!("{step}: {err}"),
        }
    }
}
