//! The OCI runtime specification as the shim has it: `ctr run --config`, with what no flag of `ctr` says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::place::{Place, RUNTIME};
use crate::process::run;

/// The root file system: the host's busybox.
fn make_root(directory: &Path) -> PathBuf {
    let root = directory.join("root");
    for name in ["bin", "dev", "proc", "sys", "tmp", "shared"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    root
}

/// A hook of the host that writes its moment down.
fn hook(directory: &Path, moment: &str) -> Value {
    let script = format!("echo {moment} >>{}/hooks", directory.display());
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
}

fn mount(kind: &str, target: &str, options: &[&str]) -> Value {
    json!({ "type": kind, "source": kind, "destination": target, "options": options })
}

/// A specification with all that has a meaning here.
fn specification(directory: &Path) -> Value {
    let capabilities = ["CAP_CHOWN", "CAP_NET_RAW"];
    let label = "system_u:system_r:container_t:s0";
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": make_root(directory), "readonly": true },
        "hostname": "spec",
        "domainname": "example.test",
        "annotations": { "io.kubernetes.cri.sandbox-id": "c1", "org.example": "kept" },
        "hooks": {
            "prestart": hook(directory, "prestart"),
            "createRuntime": hook(directory, "createRuntime"),
            "startContainer": [{ "path": "/bin/touch", "args": ["touch", "/tmp/hook"] }],
            "poststart": hook(directory, "poststart"),
            "poststop": hook(directory, "poststop"),
        },
        "process": {
            "user": { "uid": 0, "gid": 0, "umask": 0o027, "additionalGids": [7] },
            "args": ["sleep", "1000"],
            "env": ["PATH=/bin", "COLOUR=blue"],
            "cwd": "/tmp",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 128 }],
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
            "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 },
            "apparmorProfile": "docker-default",
            "selinuxLabel": label,
        },
        "mounts": [
            mount("proc", "/proc", &[]),
            mount("sysfs", "/sys", &["ro"]),
            mount("cgroup", "/sys/fs/cgroup", &["ro"]),
            mount("tmpfs", "/dev", &["nosuid", "mode=755"]),
            mount("mqueue", "/dev/mqueue", &["nodev"]),
            mount("tmpfs", "/tmp", &["noexec", "nodev", "size=1m"]),
            { "source": directory, "destination": "/shared", "options": ["rbind", "rro", "rslave"] },
        ],
        "linux": {
            "namespaces": (["pid", "ipc", "uts", "mount", "network", "cgroup", "time"]
                .map(|kind| json!({ "type": kind }))),
            "timeOffsets": { "boottime": { "secs": 1_000_000 } },
            "devices": [{ "path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "gid": 7 }],
            "cgroupsPath": "/spec/c1",
            "resources": {
                "memory": { "limit": 64 << 20, "reservation": 32 << 20, "swap": 64 << 20 },
                "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "burst": 1000, "cpus": "0", "mems": "0" },
                "pids": { "limit": 50 },
                "hugepageLimits": [{ "pageSize": "2MB", "limit": 2 << 20 }],
                "blockIO": { "weight": 1000 },
                "devices": [{ "allow": false, "access": "rwm" }],
                "unified": { "memory.high": "50331648" },
            },
            "rootfsPropagation": "private",
            "maskedPaths": ["/proc/cpuinfo"],
            "readonlyPaths": ["/proc/sys"],
            "sysctl": { "net.ipv4.ip_forward": "1", "kernel.msgmax": "4096" },
            "personality": { "domain": "LINUX32" },
            "mountLabel": label,
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
            },
        },
    })
}

/// What a process sees of it, and what it has to see.
const SEEN: [(&str, &str); 17] = [
    ("hostname; cat /proc/sys/kernel/domainname", "spec example.test"),
    ("echo $COLOUR $PWD $(umask) $(id -G) $(ulimit -n)", "blue /tmp 0027 0 7 64"),
    ("awk '/CapEff|NoNewPrivs/ { print $2 }' /proc/self/status", "0000000000002001 1"),
    ("cat /proc/self/oom_score_adj; ionice -p $$", "100 idle"),
    ("uname -m", "i686"),
    ("ls /tmp", "hook"),
    ("touch /file 2>&1", "touch: /file: Read-only file system"),
    (
        "touch /shared/file 2>&1; ls /shared/root/bin/sh",
        "touch: /shared/file: Read-only file system /shared/root/bin/sh",
    ),
    ("mkdir /tmp/made 2>&1", "mkdir: can't create directory '/tmp/made': No space left on device"),
    (
        "grep -o ' /tmp tmpfs rw,nodev,noexec,[^,]*,size=1024k' /proc/mounts",
        "/tmp tmpfs rw,nodev,noexec,relatime,size=1024k",
    ),
    ("stat -c '%F %a %t:%T %u:%g' /dev/own", "character special file 640 1:3 0:7"),
    ("wc -c </proc/cpuinfo; (echo 1 >/proc/sys/kernel/msgmax) 2>&- || echo protected", "0 protected"),
    ("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "1 4096"),
    ("[ $(cut -d. -f1 /proc/uptime) -ge 1000000 ] && echo ahead", "ahead"),
    (
        "cd /sys/fs/cgroup; cat memory.max memory.low memory.high memory.swap.max",
        "67108864 33554432 50331648 0",
    ),
    ("cd /sys/fs/cgroup; cat cpu.max cpu.max.burst cpu.weight", "50000 100000 1000 100"),
    ("cd /sys/fs/cgroup; cat pids.max hugetlb.2MB.max io.weight", "50 2097152 default 10000"),
];

#[test]
fn a_specification_holds_in_the_guest_and_its_hooks_on_the_host() {
    let Some(place) = Place::new("spec") else { return };
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let spec = specification(directory.path());
    let file = directory.path().join("config.json");
    let try_to_run = |spec: &Value, id: &str| {
        fs::write(&file, spec.to_string()).unwrap();
        run(place.ctr(&["run", "-d", "--runtime", RUNTIME, "--config", file.to_str().unwrap(), id]))
    };
    let ran = try_to_run(&spec, "c1");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    // One process more has what the first has: what its client says of it is copied from there.
    let scripts = SEEN.map(|(script, _)| format!("(echo $({script}))")).join("; ");
    let seen = place.said(&["tasks", "exec", "--exec-id", "e1", "c1", "sh", "-c", &scripts]);
    let expected = SEEN.map(|(_, expected)| format!("{expected}\n")).concat();
    assert_eq!(seen, expected);
    // On the host the machine is in the group.
    let machine = place.task("c1").0;
    let group = fs::read_to_string(format!("/proc/{machine}/cgroup")).unwrap();
    assert_eq!(group, "0::/spec/c1\n");
    let hooks = || fs::read_to_string(directory.path().join("hooks")).unwrap();
    assert_eq!(hooks(), "prestart\ncreateRuntime\npoststart\n");

    // In the same machine, what there is none of is refused, as far as containerd hands it on.
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mapped = json!({ "options": ["rbind", "idmap"], "uidMappings": map, "gidMappings": map });
    for (id, place_of, fields, named) in [
        ("c2", "/hooks", json!({ "createContainer": [{ "path": "/bin/true" }] }), "hooks.createContainer"),
        ("c3", "/linux", json!({ "intelRdt": { "closID": "a" } }), "linux.intelRdt"),
        ("c4", "", json!({ "vm": { "kernel": { "path": "/vmlinux" } } }), "vm is not supported"),
        // By containerd: the shim does not say that it could.
        ("c5", "/mounts/6", mapped, "runtime features"),
    ] {
        let mut refused = spec.clone();
        let object = refused.pointer_mut(place_of).unwrap().as_object_mut().unwrap();
        object.extend(fields.as_object().unwrap().clone());
        let ran = try_to_run(&refused, id);
        assert!(ran.status != Some(0) && ran.error.contains(named), "{named}: {ran:?}");
        place.said(&["containers", "rm", id]);
    }
    place.remove("c1");
    place.leaves_nothing();
    assert!(hooks().ends_with("poststop\n"), "{}", hooks());
}
