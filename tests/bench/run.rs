//! `rvm run` beside `ctr` with runc on the same images: from the start of a process to the end of its container, a
//! second process, output, work with small files, and what an idle container takes of the host.
//!
//! One container, 1 vCPU, the defaults of both. A lab millisecond is a million executed instructions, of the host and
//! the guest together, so what containerd does on the side is in the figures as it is in life. A figure is the median of
//! [`RUNS`] after one that is not counted.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rvm_tests::oci::Layer;
use rvm_tests::{artifact, daemon};
use serde_json::{Value, json};

const RUNS: usize = 5;
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";

/// Where the volume is on the host, and its archive of small files.
const SHARED: &str = "/var/tmp/bench-shared";
const FILES: u32 = 5000;

/// One way to run containers, with a container in the background to do work in.
struct Runtime {
    name: &'static str,
    /// A container that runs `true` and is removed.
    run: fn() -> Command,
    /// One more process in the container in the background.
    exec: fn(&[&str]) -> Command,
}

const RUNTIMES: [Runtime; 2] = [
    Runtime { name: "rvm", run: || rvm(&["run", "--rm", IMAGE, "true"]), exec: rvm_exec },
    Runtime { name: "runc", run: || ctr(&["run", "--rm", IMAGE, "once", "true"]), exec: ctr_exec },
];

const IMAGE: &str = "localhost:5000/busybox:latest";

fn rvm(arguments: &[&str]) -> Command {
    let mut command = Command::new(artifact::rvm());
    command.args(arguments);
    command
}

fn rvm_exec(words: &[&str]) -> Command {
    rvm(&[&["exec", "box"], words].concat())
}

fn ctr(arguments: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.args(arguments);
    command
}

fn ctr_exec(words: &[&str]) -> Command {
    ctr(&[&["task", "exec", "--exec-id", "more", "box"], words].concat())
}

/// Lab milliseconds to the end of `command`, and the bytes that it wrote.
fn time(mut command: Command) -> (f64, u64) {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        match output.read(&mut buffer).unwrap() {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let status = child.wait().unwrap();
    let millis = start.elapsed().as_secs_f64() * 1e3;
    assert!(status.success(), "{command:?}: {status}");
    (millis, bytes)
}

fn median(command: impl Fn() -> Command) -> f64 {
    time(command());
    let mut times: Vec<f64> = (0..RUNS).map(|_| time(command()).0).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn run(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// What is done in the container: a name, a script, and how often it does what is counted.
///
/// `$AT` is where: in the root file system, or in the volume.
const WORK: [(&str, &str); 3] = [
    ("untar 5,000 files", "rm -rf $AT/tree; mkdir $AT/tree; tar -xf /shared/files.tar -C $AT/tree"),
    ("stat 5,000 files", "find $AT/tree -size +100000k"),
    ("read 5,000 files", "tar -cf - -C $AT/tree . | wc -c"),
];

fn prepare() {
    fs::write(HALT_POLL, "0").unwrap();
    fs::create_dir_all(SHARED).unwrap();
    let content = [b'x'; 2000];
    let files = (0..FILES).fold(Layer::default(), |layer, number| {
        layer.file(&format!("d{}/f{number}", number / 100), 0o644, &content[..(number % 2000) as usize])
    });
    fs::write(Path::new(SHARED).join("files.tar"), files.archive()).unwrap();
    daemon::containerd().unwrap();
    daemon::registry().unwrap();
    run(rvm(&["pull", "--quiet", IMAGE]));
    run(ctr(&["image", "pull", "--plain-http", IMAGE]));
}

fn main() {
    prepare();
    let volume = format!("{SHARED}:/shared");
    let mut figures: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for runtime in &RUNTIMES {
        let mut add = |name: String, value: f64| {
            println!("{:<6} {name:<44} {value:>10.1}", runtime.name);
            figures.entry(runtime.name).or_default().insert(name, json!(value));
        };
        add("run --rm IMAGE true, lab ms".into(), median(runtime.run));
        let mount = format!("type=bind,src={SHARED},dst=/shared,options=rbind:rw");
        match runtime.name {
            "rvm" => run(rvm(&["run", "-d", "--name", "box", "-v", &volume, IMAGE, "sleep", "1000000"])),
            _ => run(ctr(&["run", "-d", "--mount", &mount, IMAGE, "box", "sleep", "1000000"])),
        }
        let exec = median(|| (runtime.exec)(&["true"]));
        add("exec true, lab ms".into(), exec);
        let flood = ["dd", "if=/dev/zero", "bs=64k", "count=256"];
        add("stdout, lab ms for a MiB".into(), (median(|| (runtime.exec)(&flood)) - exec) / 16.0);
        for at in ["", "/shared"] {
            let place = if at.is_empty() { "root" } else { "volume" };
            for (name, script) in WORK {
                let script = format!("AT={at}; {script}");
                add(
                    format!("{name}, {place}, lab ms"),
                    median(|| (runtime.exec)(&["sh", "-c", &script])) - exec,
                );
            }
        }
        add("idle, MiB of all processes".into(), resident(runtime.name));
        match runtime.name {
            "rvm" => run(rvm(&["rm", "-f", "box"])),
            _ => run(ctr(&["task", "rm", "--force", "box"])),
        }
    }
    for (name, rvm) in &figures["rvm"] {
        let ratio = rvm.as_f64().unwrap() / figures["runc"][name].as_f64().unwrap();
        println!("rvm / runc: {name:<44} {ratio:.2}");
    }
    fs::write(artifact::out().join("run.json"), json!(figures).to_string()).unwrap();
}

/// Resident memory of all processes of the one container, the guest's memory and programs that are shared included.
fn resident(runtime: &str) -> f64 {
    let ours = |pid: &str| {
        let command =
            fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        match runtime {
            "rvm" => command.contains("rvm supervise") || command.contains("rvm boot"),
            _ => command.contains("containerd-shim-runc-v2") || command.contains("sleep 1000000"),
        }
    };
    let entries =
        fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let of_process = |pid: String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0)
    };
    entries.filter(|pid| ours(pid)).map(of_process).sum::<f64>() / 1024.0
}
