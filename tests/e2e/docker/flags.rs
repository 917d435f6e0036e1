//! Flags of `docker run` that are less often used than those of [`super::run`].

use std::fs;

use super::place::Docker;

#[test]
fn more_settings_are_obeyed() {
    let Some(docker) = Docker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (id, environment, labels) = (path("id"), path("environment"), path("labels"));
    fs::write(&environment, "COLOUR=blue\n").unwrap();
    fs::write(&labels, "of=rvm-flags\n").unwrap();
    let flags = [
        ["--attach", "stdout"],
        ["--attach", "stderr"],
        ["--cap-add", "SYS_TIME"],
        ["--cgroupns", "private"],
        ["--cidfile", &id],
        ["--cpu-period", "50000"],
        ["--cpu-quota", "20000"],
        ["--cpu-shares", "512"],
        ["--cpuset-cpus", "0"],
        ["--cpuset-mems", "0"],
        ["--detach-keys", "ctrl-x"],
        ["--device-cgroup-rule", "c 10:200 rwm"],
        ["--dns", "192.0.2.53"],
        ["--dns-option", "ndots:3"],
        ["--dns-search", "example.test"],
        ["--domainname", "example.test"],
        ["--entrypoint", "sh"],
        ["--env-file", &environment],
        ["--expose", "8080"],
        ["--group-add", "1234"],
        ["--isolation", "default"],
        ["--label-file", &labels],
        ["--log-driver", "json-file"],
        ["--log-opt", "max-size=1m"],
        ["--mac-address", "02:42:ac:11:00:99"],
        ["--ipc", "private"],
        ["--kernel-memory", "32m"],
        ["-m", "64m"],
        ["--memory-reservation", "32m"],
        ["--memory-swap", "128m"],
        ["--memory-swappiness", "60"],
        ["--mount", "type=tmpfs,dst=/mounted,tmpfs-size=1m"],
        ["--oom-score-adj", "500"],
        ["--platform", "linux/amd64"],
        ["--pull", "missing"],
        ["--security-opt", "apparmor=unconfined"],
        ["--security-opt", "label=disable"],
        ["--security-opt", "no-new-privileges"],
        ["--security-opt", "seccomp=unconfined"],
        ["--stop-signal", "TERM"],
        ["--stop-timeout", "3"],
        ["--userns", "host"],
    ];
    let more =
        ["--disable-content-trust", "--no-healthcheck", "--oom-kill-disable", "--publish-all", "--quiet"];
    let more = [&more[..], &["--sig-proxy=false", "--annotation", "org.example=kept"]].concat();
    let script = "echo $COLOUR $(id -G) $(cat /proc/sys/kernel/domainname /proc/self/oom_score_adj); \
                  awk '/CapEff|NoNewPrivs|Seccomp:/ { print $2 }' /proc/self/status; \
                  grep -E '^(nameserver|search|options)' /etc/resolv.conf; cat /sys/class/net/eth0/address; \
                  df -k /mounted | awk '/tmpfs/ { print $2 }'; \
                  cd /sys/fs/cgroup; cat cpu.weight cpu.max cpuset.cpus cpuset.mems memory.low memory.max";
    let ran = docker.run(&[flags.concat().as_slice(), &more].concat(), &["-c", script]);
    let expected = "blue 0 1234 example.test 500\n00000000aa0425fb\n1\n0\n\
                    nameserver 192.0.2.53\nsearch example.test\noptions ndots:3\n02:42:ac:11:00:99\n1024\n\
                    59\n20000 50000\n0\n0\n33554432\n67108864\n";
    assert_eq!(ran.out, expected, "{}", ran.error);
    assert_eq!(fs::read_to_string(id).unwrap().len(), 64);
}

#[test]
fn control_groups_and_logs_are_where_they_are_asked_for() {
    let Some(docker) = Docker::new() else { return };
    let flags = ["--cgroupns", "host", "--cgroup-parent", "/rvm-parent", "--blkio-weight", "300"];
    let flags = [&flags[..], &["--log-driver", "none"]].concat();
    docker.start("rvm-parent", &flags, &["sleep", "1000000"]);
    // On the host the machine is in it; in the guest, whose first group is seen, the container is by its own.
    let machine = docker.inspect("rvm-parent", ".State.Pid");
    let group = fs::read_to_string(format!("/proc/{machine}/cgroup")).unwrap();
    assert!(group.contains("/rvm-parent/"), "{group}");
    let own = docker.inspect("rvm-parent", ".Id");
    let seen = docker.exec("rvm-parent", "cat /proc/self/cgroup /sys/fs/cgroup/*/io.weight");
    assert!(seen.starts_with(&format!("0::/{own}\n")) && seen.contains("default 2930"), "{seen}");
    let logs = docker.try_to(&["logs", "rvm-parent"]);
    assert!(logs.status != Some(0) && logs.error.contains("does not support reading"), "{logs:?}");
    docker.said(&["rm", "-f", "rvm-parent"]);

    for (flags, what) in [
        (["--device-read-bps", "/dev/vda:1mb"], "throttleReadBpsDevice for the device 254:0"),
        (["--device-write-bps", "/dev/vda:1mb"], "throttleWriteBpsDevice for the device 254:0"),
        (["--device-read-iops", "/dev/vda:1"], "throttleReadIOPSDevice for the device 254:0"),
        (["--device-write-iops", "/dev/vda:1"], "throttleWriteIOPSDevice for the device 254:0"),
        (["--blkio-weight-device", "/dev/vda:300"], "weightDevice for the device 254:0"),
        (["-v", "/var/run/docker.sock:/socket"], "a socket of the host does not work in another kernel"),
        // By Docker itself: there is no such thing on this host, or on Linux.
        (["--cpu-rt-runtime", "1000"], "real-time"),
        (["--storage-opt", "size=1g"], "storage-opt"),
        (["--cpu-count", "1"], "only supported on a Docker daemon running on windows"),
        (["--io-maxiops", "1"], "only supported on a Docker daemon running on windows"),
    ] {
        let ran = docker.run(&flags, &["true"]);
        assert!(ran.status != Some(0) && ran.error.contains(what), "{flags:?}: {ran:?}");
    }
}

#[test]
fn containers_are_linked_and_share_volumes() {
    let Some(docker) = Docker::new() else { return };
    let (subnet, subnet6) = ("10.77.0.0/24", "fd00:77::/64");
    docker.said(&["network", "create", "--ipv6", "--subnet", subnet6, "--subnet", subnet, "rvm-linked"]);
    let network = ["--network", "rvm-linked"];
    let names = ["--network-alias", "other-name", "--ip6", "fd00:77::7", "--link-local-ip", "169.254.7.7"];
    let volume = ["--volume-driver", "local", "-v", "/kept"];
    docker.start("rvm-linked-one", &[&network[..], &names, &volume].concat(), &["sleep", "1000000"]);
    docker.exec("rvm-linked-one", "echo kept >/kept/file && ip address show eth0 | grep -q 169.254.7.7/16");
    let flags =
        [&network[..], &["--link", "rvm-linked-one:linked", "--volumes-from", "rvm-linked-one"]].concat();
    let script = "cat /kept/file; for name in other-name linked; do ping -6 -c 1 $name | head -n 1; done";
    let ran = docker.run(&flags, &["sh", "-c", script]);
    let expected =
        "kept\nPING other-name (fd00:77::7): 56 data bytes\nPING linked (fd00:77::7): 56 data bytes\n";
    assert_eq!(ran.out, expected, "{ran:?}");

    // On Docker's own network names come by files.
    docker.start("rvm-linked-two", &[], &["sleep", "1000000"]);
    let ran = docker.run(&["--link", "rvm-linked-two:linked"], &["ping", "-c", "1", "linked"]);
    assert!(ran.out.contains("1 packets received"), "{ran:?}");
    docker.said(&["rm", "-fv", "rvm-linked-one", "rvm-linked-two"]);
    docker.said(&["network", "rm", "rvm-linked"]);
}

#[test]
fn a_privileged_container_may_do_all_in_its_machine_and_mounts_are_as_asked() {
    let Some(docker) = Docker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "of the host\n").unwrap();
    let bind = format!("type=bind,src={},dst=/bound,ro", directory.path().display());
    let volume = "type=volume,src=rvm-mounted,dst=/volume";
    let flags = ["--privileged", "--ipc", "shareable", "--mount", &bind, "--mount", volume];
    let script = "cat /bound/file; touch /bound/new 2>&1; touch /volume/new && ls /volume; \
                  mkdir -p /mnt && mount -t tmpfs tmpfs /mnt && echo 1 >/proc/sys/vm/overcommit_memory && echo mounted; ls /dev/kvm /dev/vda 2>&1";
    let ran = docker.run(&flags, &["sh", "-c", script]);
    let expected = "of the host\ntouch: /bound/new: Read-only file system\nnew\nmounted\n\
                    ls: /dev/kvm: No such file or directory\nls: /dev/vda: No such file or directory\n";
    assert_eq!(ran.out, expected, "{}", ran.error);
    docker.said(&["volume", "rm", "rvm-mounted"]);
}
