//! Work with files in the root of a container under the shim, beside runc, by snapshotters: of overlayfs, whose directories
//! come to a guest by virtio-fs; of blockfile, whose images the guest mounts itself; and of erofs, as images of layers and one
//! for what is written. Those come so from containerd 2.2 on, and are asked for by hand here; runc has the same snapshotter of
//! the containerd that there is, which mounts the layer on the host.
//!
//! One container, 1 vCPU, the defaults of both. Files are made by one task of it, and gone through and read by the next, on the
//! same files of the host: a guest then has nothing in its memory of what it reads, and the host all of it. Work is done once.
//! What is measured is beyond a process that does nothing.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use rvm_tests::commands::{ctr, finish, median};
use rvm_tests::file_work::{self, COPY_LARGE, Place, RANDOM_READS, READ, SHARED, STAT, UNTAR, VOLUME, Work};
use rvm_tests::tasks::{self, field, mount, overlay};
use rvm_tests::{artifact, daemon};
use serde_json::json;

const RUNS: usize = 5;
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";

const RUNTIMES: [(&str, &str); 2] = [("rvm", "io.containerd.rvm.v2"), ("runc", "io.containerd.runc.v2")];
/// Roots, by the names of their snapshotters. Through virtio-fs each file takes ten times as long.
const ROOTS: [Place; 3] = [
    Place { name: "overlayfs", at: "", files: 1000 },
    Place { name: "blockfile", at: "", files: 5000 },
    Place { name: "erofs", at: "", files: 5000 },
];

const IMAGE: &str = "localhost:5000/busybox:latest";
const BOX: &str = "box";

/// An empty image, with which the snapshotter of images begins, and one for what is written over erofs.
const EMPTY: &str = "/var/tmp/bench-empty";
const WRITTEN: &str = "/var/tmp/bench-written";
const IMAGE_BYTES: u64 = 128 << 20;
/// The layer of [`IMAGE`], which is alone in its snapshotter.
const LAYER: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.erofs/snapshots/1/layer.erofs";
const CONFIG: &str = "/etc/containerd/config.toml";

fn prepare() {
    fs::write(HALT_POLL, "0").unwrap();
    file_work::prepare(&ROOTS.map(|place| place.files)).unwrap();
    for image in [EMPTY, WRITTEN] {
        File::create(image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", image]);
        finish(mkfs);
    }
    let mut config = File::options().append(true).open(CONFIG).unwrap();
    let blockfile = "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]";
    writeln!(config, "\n{blockfile}\nscratch_file = \"{EMPTY}\"\nfs_type = \"ext4\"").unwrap();
    daemon::containerd().unwrap();
    daemon::registry().unwrap();
    for Place { name, .. } in ROOTS {
        finish(ctr(&["image", "pull", "--local", "--plain-http", "--snapshotter", name, IMAGE]));
    }
}

fn exec(words: &[&str]) -> Command {
    ctr(&[&["task", "exec", "--exec-id", "more", BOX], words].concat())
}

fn start(by_hand: bool) {
    if !by_hand {
        return finish(ctr(&["task", "start", "--detach", BOX]));
    }
    let mounts = [
        mount("ext4", WRITTEN, &["rw", "loop"]),
        mount("erofs", LAYER, &["ro", "loop"]),
        overlay(1, "{{ mount 0 }}/upper", "{{ mount 0 }}/work"),
    ];
    let mounts: Vec<u8> = mounts.iter().flat_map(|mount| field(3, mount)).collect();
    let id = field(1, BOX.as_bytes());
    for (method, message) in [("Create", [&id[..], &mounts].concat()), ("Start", id)] {
        let answer = tasks::call(daemon::CONTAINERD_SOCKET, "default", method, &message).unwrap();
        assert!(answer.contains("grpc-status: 0"), "{method}: {answer}");
    }
}

/// Ends the task. What it wrote is in the snapshot then, and on the way to the lab's disk nobody's work any more.
fn end() {
    finish(ctr(&["task", "rm", "--force", BOX]));
    finish(Command::new("sync"));
}

fn measure(name: &str, runtime: &str, place: &Place, add: &mut dyn FnMut(String, Option<f64>)) {
    let mount = format!("type=bind,src={SHARED},dst={VOLUME},options=rbind:rw");
    let flags = ["--runtime", runtime, "--snapshotter", place.name, "--mount", &mount];
    let mut tell = |work: &[Work]| {
        let alone = median(RUNS, || exec(&["true"]));
        for work in work {
            let (what, time) = place.time(*work, &exec, alone);
            add(what, time);
        }
    };
    let by_hand = (name, place.name) == ("rvm", "erofs");
    finish(ctr(&[&["container", "create"], &flags[..], &[IMAGE, BOX, "sleep", "1000000"]].concat()));
    start(by_hand);
    finish(exec(&["sh", "-c", COPY_LARGE]));
    finish(Command::new("sync"));
    tell(&[UNTAR]);
    end();
    start(by_hand);
    tell(&[STAT, READ, RANDOM_READS]);
    end();
    finish(ctr(&["container", "rm", BOX]));
}

fn main() {
    prepare();
    let mut figures: BTreeMap<&str, BTreeMap<String, f64>> = BTreeMap::new();
    for (name, runtime) in RUNTIMES {
        let mut add = |what: String, value: Option<f64>| match value {
            Some(value) => {
                println!("{name:<6} {what:<44} {value:>10.1}");
                figures.entry(name).or_default().insert(what, value);
            }
            None => println!("{name:<6} {what:<44}      hangs"),
        };
        for place in ROOTS {
            measure(name, runtime, &place, &mut add);
        }
    }
    for (name, rvm) in &figures["rvm"] {
        if let Some(runc) = figures["runc"].get(name) {
            println!("rvm / runc: {name:<44} {:.2}", rvm / runc);
        }
    }
    fs::write(artifact::out().join("shim-files.json"), json!(figures).to_string()).unwrap();
}
