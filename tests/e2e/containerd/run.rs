//! `ctr run`: output, input, status, terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::direct::Container;
use super::place::{BUSYBOX, Place, RUNTIME, parent};
use crate::process::run;
use crate::rights;
use crate::terminal::Terminal;

#[test]
fn a_container_has_its_output_and_status_and_leaves_nothing() {
    let Some(place) = Place::new("status") else { return };
    let ran = place.container(&[], "c1", &["echo", "hello"]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "hello\n", ""));
    let ran = place.container(&[], "c2", &["sh", "-c", "echo out; echo error >&2; exit 7"]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(7), "out\n", "error\n"));
    place.leaves_nothing();
}

#[test]
fn input_and_output_arrive_whole() {
    let Some(place) = Place::new("streams") else { return };
    let mut running =
        place.start(&["run", "--rm", "--runtime", RUNTIME, BUSYBOX, "cat", "sh", "-c", "cat; echo end >&2"]);
    let lines: String = (1..=50_000).map(|number| format!("line {number}\n")).collect();
    let sent = lines.clone();
    let mut input = running.input();
    let writer = std::thread::spawn(move || {
        input.write_all(sent.as_bytes()).unwrap();
        input
    });
    let came = running.out.wait_for("line 50000\n");
    assert!(lines.starts_with(&came) && came.len() + 11 == lines.len(), "{} bytes came back", came.len());
    // ctr tells of the end of its input only when the container is there: not before something came from it.
    drop(writer.join().unwrap());
    let ran = running.end();
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), "end\n"));
    place.leaves_nothing();
}

#[test]
fn environment_directory_user_and_limits_are_the_containers() {
    let Some(place) = Place::new("settings") else { return };
    let limits = ["--memory-limit", "67108864", "--cpus", "0.5"];
    // By itself `ctr` gives a container no sight of them.
    let groups = ["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"];
    let flags =
        [&["--env", "COLOUR=blue", "--cwd", "/tmp", "--user", "65534"][..], &limits, &groups].concat();
    let script = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); \
                  echo $COLOUR $OLDPWD $(id -u) $(cat memory.max cpu.max); sed -n 's/MemTotal: *//p' /proc/meminfo";
    let ran = place.container(&flags, "c1", &["sh", "-c", script]);
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
    let (settings, memory) = ran.out.split_once('\n').unwrap();
    assert_eq!(settings, "blue /tmp 65534 67108864 50000 100000");
    // The machine has what the container may have, and 64 MiB.
    let kib: u32 = memory.trim().trim_end_matches(" kB").parse().unwrap();
    assert!((64 << 10..=128 << 10).contains(&kib), "{ran:?}");
}

#[test]
fn the_kernel_is_not_the_hosts() {
    let Some(place) = Place::new("kernel") else { return };
    let ran = place.container(&[], "c1", &["uname", "-r"]);
    assert!(ran.out.starts_with("6.12"), "{ran:?}");
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(ran.out.trim(), host.trim());
}

#[test]
fn the_machine_has_none_of_roots_rights_on_the_host_but_those_of_a_file_server() {
    let Some(place) = Place::new("rights") else { return };
    place.detached(&[], "c1", &["sleep", "1000"]);
    let threads = ["rvm", "rvm-vcpu0", "rvm-vsock", "rvm-rng"];
    rights::are_given_up(place.task("c1").0, true, &threads);
    // What the tests look for where they say that nothing is left is what there is now.
    let traces = place.traces();
    for kind in [
        "process ",
        "the VMM ",
        "/run/containerd/s/",
        "/run/rvm-shim/",
        "rvm /run/rvm-shim/",
        "/sys/fs/cgroup/",
    ] {
        assert!(traces.iter().any(|trace| trace.starts_with(kind)), "{kind}: {traces:#?}");
    }
    place.remove("c1");
    place.leaves_nothing();
}

#[test]
fn a_terminal_is_one_and_has_its_size() {
    let Some(place) = Place::new("terminal") else { return };
    let command = place.ctr(&["run", "--rm", "--tty", "--runtime", RUNTIME, BUSYBOX, "tty", "sh"]);
    let mut terminal = Terminal::start(command, None);
    terminal.screen.wait_for("# ");
    let command = place.ctr(&["tasks", "exec", "--tty", "--exec-id", "e1", "tty", "sh"]);
    Terminal::start(command, None).shell_is_resized("/dev/pts/1");
    // Its prompt comes again.
    terminal.types(b"\r");
    terminal.shell_is_resized("/dev/pts/0");
    place.leaves_nothing();
}

#[test]
fn output_that_nobody_reads_stops_its_process_and_no_other_of_the_pod() {
    let Some(place) = Place::new("unread") else { return };
    place.detached(&[], "c1", &["sh", "-c", "seq 300000; touch /over; exec sleep 1000"]);
    let ran = place.container(&["--annotation", "io.kubernetes.cri.sandbox-id=c1"], "c2", &["seq", "50000"]);
    assert_eq!((ran.status, ran.out.lines().count()), (Some(0), 50_000), "{}", ran.error);
    let exec = |id: &str, script: &str| {
        place.said(&["tasks", "exec", "--exec-id", id, "c1", "sh", "-c", script]);
    };
    exec("e1", "! [ -e /over ]");
    // Nothing of it was lost since its first reader went.
    let attached = place.start(&["tasks", "attach", "c1"]);
    // It may begin within a line.
    let lines = BufReader::new(attached.out.file()).lines().skip(1);
    let mut numbers = lines.map(|line| line.unwrap().parse::<u32>().unwrap());
    let first = numbers.next().unwrap();
    let others = numbers.by_ref().zip(first + 1..).take_while(|(number, expected)| {
        assert_eq!(number, expected);
        *number < 300_000
    });
    assert_eq!(others.count(), usize::try_from(300_000 - first - 1).unwrap());
    exec("e2", "until [ -e /over ]; do sleep 0.1; done");
    drop(attached);
    place.remove("c1");
    place.leaves_nothing();
}

#[test]
fn hooks_run_on_the_host_and_those_behind_the_end_whatever_was_the_end() {
    let Some(place) = Place::new("hooks") else { return };
    let container = Container::new("hooked", "sleep 1000", None);
    let bundle = container.bundle.path();
    let (config, said) = (bundle.join("config.json"), bundle.join("said"));
    let shell = |script: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
    let tell = |word: &str| shell(&format!("echo {word} \"$(cat)\" >>{}", said.display()));
    let run = |id: &str, created: Value| {
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["root"]["path"] = bundle.join("rootfs").to_str().into();
        spec["annotations"] = json!({ "of": "hooks" });
        spec["hooks"] = json!({ "createRuntime": [created], "poststop": [tell("stopped")] });
        fs::write(&config, spec.to_string()).unwrap();
        place.run(&["run", "-d", "--runtime", RUNTIME, "--config", config.to_str().unwrap(), id])
    };
    let ran = run("c1", shell("exit 3"));
    assert!(ran.status == Some(1) && ran.error.contains("exit status: 3"), "{ran:?}");
    place.leaves_nothing();
    let ran = run("c2", tell("created"));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let vmm = place.task("c2").0;
    kill(Pid::from_raw(parent(vmm)), Signal::SIGKILL).unwrap();
    place.leaves_nothing();
    let text = fs::read_to_string(&said).unwrap();
    let told: Vec<_> = text
        .lines()
        .map(|line| {
            let (word, state) = line.split_once(' ').unwrap();
            let state: Value = serde_json::from_str(state).unwrap();
            assert_eq!(state["annotations"], json!({ "of": "hooks" }));
            (word, state["id"].clone(), state["pid"].clone())
        })
        .collect();
    let none = Value::Null;
    let [one, two] = ["c1", "c2"].map(Value::from);
    let expected =
        [("stopped", one, none.clone()), ("created", two.clone(), vmm.into()), ("stopped", two, none)];
    assert_eq!(told, expected);
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let Some(place) = Place::new("noimage") else { return };
    let ran = place.run(&["run", "--rm", "--runtime", RUNTIME, "localhost:5000/none:latest", "c1", "true"]);
    assert_ne!(ran.status, Some(0));
    assert!(ran.error.contains("localhost:5000/none:latest") && ran.error.contains("not found"), "{ran:?}");
    place.leaves_nothing();
}

#[test]
fn a_program_that_is_not_there_is_told_and_nothing_is_left() {
    let Some(place) = Place::new("noprogram") else { return };
    let ran = place.container(&[], "c1", &["/no/such/program"]);
    assert_ne!(ran.status, Some(0));
    assert!(ran.error.contains("/no/such/program"), "{ran:?}");
    // In the background nobody removes the task; it can be.
    let ran = place.run(&["run", "-d", "--runtime", RUNTIME, BUSYBOX, "c2", "/no/such/program"]);
    assert_ne!(ran.status, Some(0));
    assert_eq!(place.task("c2").1, "STOPPED");
    place.remove("c2");
    place.leaves_nothing();
}

#[test]
fn a_configuration_is_obeyed_and_what_is_wrong_in_it_is_told() {
    let Some(place) = Place::new("configured") else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rvm.toml");
    let flags = ["--runtime-config-path", path.to_str().unwrap()];
    let run = |text: &str, more: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let script = "nproc; sed -n 's/MemTotal: *//p' /proc/meminfo; cat /proc/cmdline";
        place.container(&[&flags, more].concat(), "c1", &["sh", "-c", script])
    };
    let ran = run(
        "cpus = 2\nmemory = \"200M\"\nkernel-parameters = \"rvm.test=1\"\nannotations = [\"io.rvm.memory\"]\n",
        &["--annotation", "io.rvm.memory=160M"],
    );
    let lines: Vec<_> = ran.out.lines().collect();
    let kib: u32 = lines[1].trim_end_matches(" kB").parse().unwrap();
    assert!(lines[0] == "2" && (100 << 10..=160 << 10).contains(&kib), "{ran:?}");
    assert!(lines[2].contains("rvm.test=1"), "{ran:?}");

    let ran = run("cpus = 2\ncpu = 3\n", &[]);
    assert!(ran.error.contains("rvm.toml': line 2: unknown field `cpu`"), "{ran:?}");
    let ran = run("", &["--annotation", "io.rvm.cpus=4"]);
    assert!(ran.error.contains("the annotation io.rvm.cpus"), "{ran:?}");
    let ran = run("", &["--annotation", "io.rvm.cpu=4"]);
    assert!(ran.error.contains("there is no 'io.rvm.cpu'; those of rvm are io.rvm.cpus"), "{ran:?}");
    place.leaves_nothing();
}

#[test]
fn gpus_of_the_host_are_refused_by_name() {
    let Some(place) = Place::new("gpus") else { return };
    // `ctr` looks for the program by which containers are given GPUs, and has a hook run it.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("nvidia-container-cli");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.ctr(&["run", "--rm", "--runtime", RUNTIME, "--gpus", "0", BUSYBOX, "c1", "true"]);
    command.env("PATH", format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap()));
    let ran = run(command);
    assert!(ran.status != Some(0) && ran.error.contains("rvm does not support GPUs of the host"), "{ran:?}");
    place.leaves_nothing();
}
