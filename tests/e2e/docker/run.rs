//! `docker run`: output, status, terminal, settings, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use rvm_tests::artifact;

use super::place::{BUSYBOX, Docker, RUNTIME};
use crate::rights;
use crate::terminal::Terminal;

#[test]
fn output_and_status_are_the_containers_and_the_kernel_is_not_the_hosts() {
    let Some(docker) = Docker::new() else { return };
    let ran = docker.run(&[], &["sh", "-c", "uname -r; echo error >&2; exit 7"]);
    assert_eq!((ran.status, ran.error.as_str()), (Some(7), "error\n"));
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(ran.out.starts_with("6.12") && ran.out != host, "{ran:?}");

    for (program, status, why) in
        [("nosuch", 127, "executable file not found"), ("/etc/passwd", 126, "permission denied")]
    {
        let ran = docker.run(&[], &[program]);
        assert_eq!(ran.status, Some(status), "{ran:?}");
        assert!(ran.error.to_lowercase().contains(why), "{ran:?}");
    }
}

#[test]
fn a_terminal_is_one() {
    if Docker::new().is_none() {
        return;
    }
    let name = ["--name", "rvm-terminal"];
    let run = [&["run", "-it", "--rm", "--runtime", RUNTIME][..], &name, &[BUSYBOX, "sh"]].concat();
    let mut terminal = Terminal::start(Docker::command(&run), None);
    terminal.screen.wait_for("# ");
    terminal.types(b"tty; stty size\r");
    terminal.screen.wait_for("/dev/pts/0");
    terminal.screen.wait_for("24 80");
    let exec = Docker::command(&["exec", "-it", "rvm-terminal", "sh"]);
    Terminal::start(exec, None).shell_is_resized("/dev/pts/1");
    terminal.types(b"exit 3\r");
    terminal.ends(3);
}

#[test]
fn settings_are_obeyed() {
    let Some(docker) = Docker::new() else { return };
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("file"), "from the host\n").unwrap();
    let volume = format!("{}:/shared", shared.path().display());
    let flags = [
        ["-e", "COLOUR=blue"],
        ["-v", &volume],
        ["-v", "rvm-settings:/volume"],
        ["-m", "128m"],
        ["--cpus", "0.5"],
        ["--hostname", "box"],
        ["--user", "5:6"],
        ["--workdir", "/shared"],
        ["--tmpfs", "/scratch:size=1m"],
        ["--ulimit", "nofile=77"],
        ["--shm-size", "4m"],
        ["--add-host", "other:192.0.2.7"],
        ["--pids-limit", "50"],
        ["--cap-drop", "NET_RAW"],
        ["--sysctl", "net.ipv4.ip_forward=1"],
    ];
    let script = "echo $COLOUR $PWD $(id -u):$(id -g) $(hostname) $(ulimit -n) $(nproc); cat file; \
                  cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; \
                  grep other /etc/hosts; df -k /scratch /dev/shm | awk '/tmpfs|shm/ { print $2 }'; \
                  cat /proc/sys/net/ipv4/ip_forward; touch /x 2>&1";
    let flags = [flags.concat().as_slice(), &["--read-only", "--init"]].concat();
    let ran = docker.run(&flags, &["sh", "-c", script]);
    let expected = "blue /shared 5:6 box 77 1\nfrom the host\n134217728\n50000 100000\n50\n192.0.2.7\tother\n\
                    1024\n4096\n1\ntouch: /x: Read-only file system\n";
    assert_eq!(ran.out, expected, "{}", ran.error);
    docker.said(&["volume", "rm", "rvm-settings"]);
}

#[test]
fn what_is_the_hosts_is_refused_by_name() {
    let Some(docker) = Docker::new() else { return };
    for (flags, what) in [
        (["--network", "host"], "the host's network"),
        (["--pid", "host"], "the host's processes"),
        (["--ipc", "host"], "the host's shared memory"),
        (["--uts", "host"], "the host's name"),
        (["--device", "/dev/kvm"], "the device '/dev/kvm'"),
    ] {
        let ran = docker.run(&flags, &["true"]);
        assert_eq!(ran.status, Some(125), "{ran:?}");
        assert!(ran.error.contains(what), "{ran:?}");
    }
}

#[test]
fn privileges_are_those_of_the_guest() {
    let Some(docker) = Docker::new() else { return };
    // All capabilities, no filter, the guest's own devices of which a container has some, and the guest's settings; of the
    // host neither devices nor the kernel's log.
    let script = "awk '/CapEff|NoNewPrivs|Seccomp:/ { print $2 }' /proc/self/status; ls /dev | grep -cE '^(kvm|vd|sd|loop|mapper|mem)'; \
                  ls /dev/net/tun /dev/fuse; mkdir /mounted && mount -t tmpfs none /mounted && echo mounted; \
                  echo 7 >/proc/sys/net/ipv4/ip_unprivileged_port_start && echo set; dmesg | grep -c 'Linux version 6.12'; \
                  echo up; exec sleep 1000000";
    docker.start("rvm-privileged", &["--privileged"], &["sh", "-c", script]);
    docker.until(&["logs", "rvm-privileged"], |log| log.ends_with("up\n"));
    let said = docker.said(&["logs", "rvm-privileged"]);
    let expected = "000001ffffffffff\n0\n0\n0\n/dev/fuse\n/dev/net/tun\nmounted\nset\n1\nup";
    assert_eq!(said, expected);
    let machine = docker.inspect("rvm-privileged", ".State.Pid").parse().unwrap();
    rights::are_given_up(machine, true, &["rvm", "rvm-vcpu0"]);
    docker.remove(&["rvm-privileged"]);
}

#[test]
fn what_goes_wrong_is_in_dockers_output() {
    let Some(docker) = Docker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (fixed, full) = (directory.path().join("fixed"), directory.path().join("full"));
    fs::create_dir(&fixed).unwrap();
    fs::create_dir(&full).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "full"]).arg(&full).status();
    assert!(mounted.unwrap().success());
    let [fixed, full_of_host] = [fixed, full.clone()].map(|path| path.display().to_string());
    let flags = ["-v", &format!("{fixed}:/fixed:ro"), "-v", &format!("{full_of_host}:/full")];
    let script = "touch /fixed/file; cat /bin/busybox >/full/file; cat /bin/busybox >/tmpfs/file";
    let ran = docker.run(&[&flags[..], &["--tmpfs", "/tmpfs:size=4k"]].concat(), &["sh", "-c", script]);
    assert!(Command::new("umount").arg(&full).status().unwrap().success());
    assert!(ran.status == Some(1) && ran.error.contains("Read-only file system"), "{ran:?}");
    // That of the host and that of the guest.
    assert_eq!(ran.error.matches("No space left on device").count(), 2, "{ran:?}");
    let long = format!("/etc:/{}", "x".repeat(300));
    let ran = docker.run(&["-v", &long], &["true"]);
    assert!(ran.status != Some(0) && ran.error.contains("name too long"), "{ran:?}");
    let ran = docker.try_to(&["run", "--rm", "--runtime", RUNTIME, "localhost:5000/missing", "true"]);
    assert!(ran.status == Some(125) && ran.error.contains("localhost:5000/missing"), "{ran:?}");
}

#[test]
fn a_guest_that_does_not_boot_is_told_with_its_last_words() {
    let Some(docker) = Docker::new() else { return };
    if !artifact::in_lab() {
        return rvm_tests::cannot_run("the shim's configuration is this machine's own");
    }
    // It allows more, and changes nothing for those that do not ask.
    let drop_ins = Path::new("/etc/rvm/conf.d");
    fs::create_dir_all(drop_ins).unwrap();
    fs::write(drop_ins.join("allowed.toml"), "annotations = [\"io.rvm.kernel-parameters\"]\n").unwrap();
    let ran = docker.run(&["--annotation", "io.rvm.kernel-parameters=rdinit=/no/such/init"], &["true"]);
    let phase = "the guest's kernel panicked while the guest's kernel booted";
    assert!(ran.status == Some(125) && ran.error.contains(phase), "{ran:?}");
    assert!(ran.error.contains("Kernel panic - not syncing: "), "{ran:?}");
}
