//! The shim beside runc, driven by the same containerd and Docker with the same image: from the start of a command to the
//! end of its container, ten at a time, a second process, what an idle pod takes of the host, and the network between
//! containers.
//!
//! One container, 1 vCPU, the defaults of both: `ctr` gives a container no network, Docker one on its bridge. Times are the
//! median of [`RUNS`] after one that is not counted; what is done at once is done once, after once that is not counted. Over
//! the network each time is that of a process with a connection of its own, beyond that of one that only connects.
//!
//! Work with files is in `shim_files.rs`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rvm_tests::commands::{self, Memory, ctr, docker, finish, median, time_together};
use rvm_tests::{artifact, daemon};
use serde_json::json;

const RUNS: usize = 5;
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";
/// A guest gives its free memory back in rounds, 2 s apart; after this many there is nothing left to give.
const IDLE: Duration = Duration::from_secs(60);
const TOGETHER: usize = 10;

const IMAGE: &str = "localhost:5000/busybox:latest";
/// The load program, where `lab bench` puts it, and where containers have it.
const LOAD: &str = "/pay/guest-bench";
const SHARED: &str = "/var/tmp/bench-load";

const NETWORK: &str = "bench";
const PORT: &str = "5201";
/// Round trips of a byte, and a stream's bytes: so many that it does not count that one `docker exec` takes 20 lab ms more
/// than another.
const PINGS: u32 = 1000;
const MIB: u32 = 32;

/// A runtime, by the names that containerd and Docker have for it.
struct Runtime {
    name: &'static str,
    runtime: &'static str,
    /// Words of the command lines of the processes that a container costs the host.
    processes: &'static [&'static str],
}

const RUNTIMES: [Runtime; 2] = [
    Runtime {
        name: "rvm",
        runtime: "io.containerd.rvm.v2",
        processes: &["containerd-shim-rvm-v2 ", "rvm boot "],
    },
    Runtime {
        name: "runc",
        runtime: "io.containerd.runc.v2",
        processes: &["containerd-shim-runc-v2 ", "sleep 1000000 "],
    },
];

impl Runtime {
    /// `ctr run` of a container of this name.
    fn ctr(&self, flags: &[&str], name: &str, words: &[&str]) -> Command {
        ctr(&[&["run", "--runtime", self.runtime], flags, &[IMAGE, name], words].concat())
    }

    fn docker(&self, flags: &[&str], words: &[&str]) -> Command {
        docker(&[&["run", "--runtime", self.runtime], flags, &[IMAGE], words].concat())
    }

    fn together(&self) -> Option<f64> {
        let names: Vec<String> = (0..TOGETHER).map(|number| format!("{}-{number}", self.name)).collect();
        let all = names.iter().map(|name| self.ctr(&["--rm"], name, &["true"]));
        time_together(all.collect())
    }

    fn measure(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        let mut add = |name: &str, value: Option<f64>| match value {
            Some(value) => {
                println!("{:<6} {name:<44} {value:>10.1}", self.name);
                figures.insert(name.to_owned(), value);
            }
            None => println!("{:<6} {name:<44}      hangs", self.name),
        };
        add("ctr run --rm, lab ms", median(RUNS, || self.ctr(&["--rm"], "once", &["echo", "hi"])));
        add("docker run --rm, lab ms", median(RUNS, || self.docker(&["--rm"], &["echo", "hi"])));
        add("ten at a time, by ctr, lab ms for all", self.together().and_then(|_| self.together()));

        finish(self.ctr(&["-d"], "idle", &["sleep", "1000000"]));
        add(
            "ctr task exec of true, lab ms",
            median(RUNS, || ctr(&["task", "exec", "--exec-id", "more", "idle", "true"])),
        );
        sleep(IDLE);
        let memory = commands::memory_of(self.processes);
        for Memory { process, resident, .. } in &memory {
            add(&format!("idle, MiB resident of {}", process.trim()), Some(*resident));
        }
        let proportional = memory.iter().map(|memory| memory.proportional).sum();
        add("idle, MiB of all, what is shared divided", Some(proportional));
        finish(ctr(&["task", "rm", "--force", "idle"]));
        finish(ctr(&["container", "rm", "idle"]));

        self.network(&mut add);
        figures
    }

    /// Streams between two containers on a network, and from the host to the one's published port.
    fn network(&self, add: &mut dyn FnMut(&str, Option<f64>)) {
        let volume = format!("{SHARED}:/load");
        let published = format!("{PORT}:{PORT}");
        let common = ["-d", "--network", NETWORK, "-v", &volume];
        let serve = ["/load/guest-bench", "serve", &format!("0.0.0.0:{PORT}")];
        finish(self.docker(&[&common[..], &["--name", "server", "-p", &published]].concat(), &serve));
        finish(self.docker(&[&common[..], &["--name", "client"]].concat(), &["sleep", "1000000"]));
        let server = format!("server:{PORT}");
        let gateway = format!("192.0.2.1:{PORT}");
        let inside = |script: &str| docker(&["exec", "client", "sh", "-c", script]);
        let outside = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        type Run<'a> = &'a dyn Fn(&str) -> Command;
        let ways: [(&str, Run<'_>, &str, &str); 2] = [
            ("between two containers", &inside, "/load/guest-bench", &server),
            ("by the published port", &outside, LOAD, &gateway),
        ];
        for (way, run, program, address) in ways {
            let orders = |order: &str| format!("printf 'tcp {address}\\n{order}\\n' | {program}");
            let alone = median(RUNS, || run(&orders("nothing")));
            let beyond = |order: String, operations: u32| {
                let time = median(RUNS, || run(&orders(&order)))?;
                Some((time - alone?) / f64::from(operations))
            };
            let stream = MIB << 20;
            add(
                &format!("round trip {way}, lab µs"),
                beyond(format!("ping {PINGS}"), PINGS).map(|ms| ms * 1e3),
            );
            add(&format!("a MiB to it, {way}, lab ms"), beyond(format!("send {stream}"), MIB));
            add(&format!("a MiB from it, {way}, lab ms"), beyond(format!("receive {stream}"), MIB));
        }
        finish(docker(&["rm", "-f", "server", "client"]));
    }
}

fn prepare() {
    fs::write(HALT_POLL, "0").unwrap();
    fs::create_dir_all(SHARED).unwrap();
    fs::copy(LOAD, Path::new(SHARED).join("guest-bench")).unwrap();
    daemon::containerd().unwrap();
    daemon::docker().unwrap();
    daemon::registry().unwrap();
    finish(ctr(&["image", "pull", "--plain-http", IMAGE]));
    finish(docker(&["pull", "--quiet", IMAGE]));
    // Its gateway is the host's address on it.
    finish(docker(&["network", "create", "--subnet", "192.0.2.0/24", "--gateway", "192.0.2.1", NETWORK]));
}

fn main() {
    prepare();
    let figures: BTreeMap<&str, BTreeMap<String, f64>> =
        RUNTIMES.iter().map(|runtime| (runtime.name, runtime.measure())).collect();
    for (name, rvm) in &figures["rvm"] {
        if let Some(runc) = figures["runc"].get(name) {
            println!("rvm / runc: {name:<44} {:.2}", rvm / runc);
        }
    }
    fs::write(artifact::out().join("shim.json"), json!(figures).to_string()).unwrap();
}
