//! What a container is from inside: what the OCI runtime specification promises, seen through /proc and /sys.

use std::collections::BTreeMap;
use std::fs;

use super::place::{Place, image};

/// Runs a script in a container with these flags; gives what it says.
#[track_caller]
fn inside(place: &Place, flags: &[&str], script: &str) -> String {
    let busybox = image("busybox");
    place.said(&[&["run", "--rm", "--network", "none"], flags, &[&busybox, "sh", "-c", script]].concat())
}

/// `Name:\tvalue` lines, as in /proc/self/status.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

#[test]
fn rights_are_dockers_unless_flags_say_otherwise() {
    let place = Place::with(&["busybox"]);
    let status = inside(&place, &[], "cat /proc/self/status");
    let default = fields(&status);
    // The fourteen of Docker, linux/capability.h.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(default[set], "00000000a80425fb", "{set}");
    }
    assert_eq!(
        (default["CapAmb"], default["NoNewPrivs"], default["Seccomp"]),
        ("0000000000000000", "0", "0")
    );

    let flags = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--security-opt", "no-new-privileges"];
    let status = inside(&place, &flags, "cat /proc/self/status");
    let few = fields(&status);
    assert_eq!(
        (few["CapEff"], few["CapBnd"], few["NoNewPrivs"]),
        ("0000000000000400", "0000000000000400", "1")
    );
    // A user that is not root has none in effect.
    let status = inside(&place, &["-u", "1000"], "cat /proc/self/status");
    assert_eq!(fields(&status)["CapEff"], "0000000000000000");
}

#[test]
fn a_system_call_that_a_profile_denies_fails() {
    let place = Place::with(&["busybox"]);
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS" },
        ],
    });
    fs::write(place.path("work/profile.json"), profile.to_string()).unwrap();
    let script = "grep Seccomp: /proc/self/status; mkdir /tmp/x 2>&1; \
                  sh -c 'hostname other; exit $?' 2>/dev/null; echo $?";
    let said = inside(&place, &["--security-opt", "seccomp=profile.json"], script);
    // 95 is EOPNOTSUPP, 159 is 128 + SIGSYS.
    assert!(
        said.contains("Seccomp:\t2") && said.contains("not supported") && said.ends_with("159\n"),
        "{said}"
    );
}

#[test]
fn limits_are_those_of_its_cgroup_and_its_processes() {
    let place = Place::with(&["busybox"]);
    let flags = ["-m", "100M", "--cpus", "0.5", "--pids-limit", "50", "--ulimit", "nofile=100:200"];
    let script =
        "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max; ulimit -Sn; ulimit -Hn; nproc";
    let said = inside(&place, &flags, script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["104857600", "0", "50000 100000", "50", "100", "200", "1"]);
    assert_eq!(inside(&place, &["--cpus", "2"], "nproc"), "2\n");
}

#[test]
fn its_namespaces_are_its_own() {
    let place = Place::with(&["busybox"]);
    let script =
        "echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup; hostname; ls -d /sys/class/net/*";
    let said = inside(&place, &["--hostname", "box"], script);
    // The shell, ls and grep.
    assert_eq!(said, "1\n3\n0::/\nbox\n/sys/class/net/lo\n");
}

#[test]
fn mounts_are_as_the_specification_has_them() {
    let place = Place::with(&["busybox"]);
    let flags = ["--read-only", "--tmpfs", "/scratch:size=1m,mode=700", "--shm-size", "2M"];
    let script = "touch /x 2>&1; touch /scratch/x && df -k /scratch | tail -1; df -k /dev/shm | tail -1; \
                  cat /proc/self/mountinfo";
    let said = inside(&place, &flags, script);
    assert!(said.contains("/x: Read-only file system"), "{said}");
    let size = |point: &str| {
        let line = said.lines().find(|line| line.ends_with(&format!("% {point}"))).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((size("/scratch").as_str(), size("/dev/shm").as_str()), ("1024", "2048"));
    let options = |point: &str| {
        let line = said.lines().find(|line| line.split(' ').nth(4) == Some(point));
        let words: Vec<&str> = line.unwrap_or_else(|| panic!("{point}: {said}")).split(' ').collect();
        words[5].to_owned()
    };
    assert!(options("/").starts_with("ro"), "{said}");
    for (point, wanted) in [
        ("/proc", "nosuid,nodev,noexec"),
        ("/dev/shm", "nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
        ("/sys/fs/cgroup", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "ro"),
    ] {
        for word in wanted.split(',') {
            assert!(options(point).split(',').any(|option| option == word), "{point} is {word}: {said}");
        }
    }
}

#[test]
fn paths_that_tell_or_change_the_machine_are_masked() {
    let place = Place::with(&["busybox"]);
    // The guest's kernel has no /proc/kcore to begin with.
    let script = "cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l; echo 1 2>&1 >/proc/sys/kernel/panic; \
                  echo b 2>&1 >/proc/sysrq-trigger; ls /dev | sort | tr '\\n' ' '; echo; \
                  mknod /tmp/disk b 254 0; cat /tmp/disk 2>&1 >/dev/null; true";
    let said = inside(&place, &[], script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{said}");
    assert!(lines[2].contains("Read-only") && lines[3].contains("Read-only"), "{said}");
    let devices = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(
        lines[4].split(' ').filter(|name| *name != "core" && !name.is_empty()).collect::<Vec<_>>().join(" "),
        devices
    );
    // A device file can be made, and not opened.
    assert!(lines[5].contains("Operation not permitted"), "{said}");
}

#[test]
fn kernel_parameters_are_the_containers() {
    let place = Place::with(&["busybox"]);
    let flags = ["--sysctl", "kernel.msgmax=4096", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7"];
    let script = "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(inside(&place, &flags, script), "4096\n7\n");
}
