//! `rvm run` beside `ctr` with runc on the same images: from the start of a process to the end of its container, a
//! second process, output, work with small files, and what an idle container takes of the host.
//!
//! One container, 1 vCPU, the defaults of both. A lab millisecond is a million executed instructions, of the host and
//! the guest together, so what containerd does on the side is in the figures as it is in life. Starts and processes are
//! the median of [`RUNS`] after one that is not counted; output is one run after one that is not counted. Work is done
//! once: the host has in its memory what is read, and a guest has not. What hangs is ended, and has no figure.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rvm_tests::commands::{self, Memory, ctr, finish, median, rvm};
use rvm_tests::file_work::{self, Place, RANDOM_READS, READ, SHARED, STAT, UNTAR, VOLUME};
use rvm_tests::{artifact, daemon};
use serde_json::{Value, json};

const RUNS: usize = 5;
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";
/// A guest gives its free memory back in rounds, 2 s apart; after this many there is nothing left to give.
const IDLE: Duration = Duration::from_secs(60);

/// Where work with files is done. In the volume each takes ten times as long.
const ROOT: Place = Place { name: "root", at: "", files: 5000 };
const IN_VOLUME: Place = Place { name: "volume", at: VOLUME, files: 100 };

const IMAGE: &str = "localhost:5000/busybox:latest";
/// The containers in the background: to do work in, and to do nothing.
const BOX: &str = "box";
const IDLER: &str = "idler";

/// One way to run containers.
struct Runtime {
    name: &'static str,
    /// A container that runs `true` and is removed.
    once: fn() -> Command,
    /// A container in the background, with the volume.
    start: fn(&str) -> Command,
    /// One more process in the box.
    exec: fn(&[&str]) -> Command,
    /// Ends a container.
    end: fn(&str) -> Command,
    /// Words of the command lines of the processes that a container costs the host.
    processes: &'static [&'static str],
}

const SLEEP: [&str; 2] = ["sleep", "1000000"];

const RUNTIMES: [Runtime; 2] = [
    Runtime {
        name: "rvm",
        once: || rvm(&["run", "--rm", IMAGE, "true"]),
        start: |name| {
            let volume = format!("{SHARED}:{VOLUME}");
            rvm(&[&["run", "-d", "--name", name, "-v", &volume, IMAGE], &SLEEP[..]].concat())
        },
        exec: |words| rvm(&[&["exec", BOX], words].concat()),
        end: |name| rvm(&["rm", "-f", name]),
        processes: &["rvm supervise ", "rvm boot "],
    },
    Runtime {
        name: "runc",
        once: || ctr(&["run", "--rm", IMAGE, "once", "true"]),
        start: |name| {
            let mount = format!("type=bind,src={SHARED},dst={VOLUME},options=rbind:rw");
            ctr(&[&["run", "-d", "--mount", &mount, IMAGE, name], &SLEEP[..]].concat())
        },
        exec: |words| ctr(&[&["task", "exec", "--exec-id", "more", BOX], words].concat()),
        end: |name| ctr(&["task", "rm", "--force", name]),
        processes: &["containerd-shim-runc-v2 ", "sleep 1000000 "],
    },
];

fn prepare() {
    fs::write(HALT_POLL, "0").unwrap();
    file_work::prepare(&[ROOT.files, IN_VOLUME.files]).unwrap();
    daemon::containerd().unwrap();
    daemon::registry().unwrap();
    finish(rvm(&["pull", "--quiet", IMAGE]));
    finish(ctr(&["image", "pull", "--plain-http", IMAGE]));
}

type Figures = BTreeMap<String, f64>;

fn measure(runtime: &Runtime) -> Figures {
    let mut figures = Figures::new();
    let mut add = |name: String, value: Option<f64>| match value {
        Some(value) => {
            println!("{:<6} {name:<40} {value:>10.1}", runtime.name);
            figures.insert(name, value);
        }
        None => println!("{:<6} {name:<40}      hangs", runtime.name),
    };
    add("run --rm IMAGE true, lab ms".into(), median(RUNS, runtime.once));
    if runtime.name == "rvm" {
        let alone = || rvm(&["run", "--rm", "--network", "none", IMAGE, "true"]);
        add("the same without a network, lab ms".into(), median(RUNS, alone));
    }

    finish((runtime.start)(IDLER));
    sleep(IDLE);
    for (process, mib) in resident(runtime) {
        add(format!("idle, MiB of {process}"), Some(mib));
    }
    finish((runtime.end)(IDLER));

    finish((runtime.start)(BOX));
    let exec = median(RUNS, || (runtime.exec)(&["true"]));
    let beyond_exec = |time: Option<f64>| Some(time? - exec?);
    add("exec true, lab ms".into(), exec);
    let flood = ["dd", "if=/dev/zero", "bs=64k", "count=256", "status=none"];
    let flood = beyond_exec(median(1, || (runtime.exec)(&flood)));
    add("stdout, lab ms for a MiB".into(), flood.map(|time| time / 16.0));
    let work = [(IN_VOLUME, RANDOM_READS)].into_iter();
    let work =
        work.chain([ROOT, IN_VOLUME].into_iter().flat_map(|at| [UNTAR, STAT, READ].map(|work| (at, work))));
    for (place, work) in work {
        let (name, time) = place.time(work, &runtime.exec, exec);
        add(name, time);
    }
    fs::remove_dir_all(Path::new(SHARED).join("tree")).ok();
    finish((runtime.end)(BOX));
    figures
}

/// Resident memory of the processes of the one container, the guest's memory included; then of all of them, and that with
/// what they share counted once.
fn resident(runtime: &Runtime) -> Vec<(&'static str, f64)> {
    let found = commands::memory_of(runtime.processes);
    let all = |field: fn(&Memory) -> f64| found.iter().map(field).sum();
    let mut rows: Vec<_> = found.iter().map(|memory| (memory.process.trim(), memory.resident)).collect();
    rows.push(("all processes", all(|memory| memory.resident)));
    rows.push(("all, what is shared once", all(|memory| memory.proportional)));
    rows
}

fn main() {
    prepare();
    let figures: BTreeMap<&str, Figures> =
        RUNTIMES.iter().map(|runtime| (runtime.name, measure(runtime))).collect();
    for (name, rvm) in &figures["rvm"] {
        if let Some(runc) = figures["runc"].get(name) {
            println!("rvm / runc: {name:<40} {:.2}", rvm / runc);
        }
    }
    let figures: Value = json!(figures);
    fs::write(artifact::out().join("run.json"), figures.to_string()).unwrap();
}
