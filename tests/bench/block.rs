//! A disk under load: 4 KiB at random places, one request at a time and 32, and 1 MiB after another; with each of
//! rvm's engines, and QEMU's microvm beside them.
//!
//! The guest goes past its page cache; the image is a file on the host's ext4 that its page cache holds, so that no
//! real disk has a say. (Not on tmpfs, where io_uring is at a disadvantage: docs/budgets.md.)
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::fs;

use rvm_tests::workload::{self, Load, Table};

const DISK: &str = "/var/tmp/bench.raw";
const DISK_BYTES: usize = 16 << 20;

fn load(name: &'static str, operations: u32, order: &str) -> Load {
    Load { name, order: format!("disk {order} {operations}"), operations }
}

fn main() {
    fs::write(DISK, vec![0x5a; DISK_BYTES]).unwrap();
    let image = workload::image().unwrap();
    println!("disk: each figure is for one request");
    let mut table = Table::new(vec![
        load("read 4 KiB, depth 1", 100, "read random 4096 1"),
        load("write 4 KiB, depth 1", 100, "write random 4096 1"),
        load("read 4 KiB, depth 32", 320, "read random 4096 32"),
        load("write 4 KiB, depth 32", 320, "write random 4096 32"),
        load("read 1 MiB, sequential", 8, "read sequential 1048576 1"),
        load("write 1 MiB, sequential", 8, "write sequential 1048576 1"),
    ])
    .unwrap();
    for engine in ["io-uring", "sync"] {
        let disk = format!("{DISK},engine={engine}");
        table.add(&format!("rvm {engine}"), workload::rvm(&image, &["--disk", &disk]), &[]).unwrap();
    }
    for engine in ["io_uring", "threads"] {
        let drive = format!("if=none,id=disk,format=raw,file={DISK},aio={engine}");
        let devices = ["-drive", &drive, "-device", "virtio-blk-device,drive=disk"];
        table.add(&format!("QEMU {engine}"), workload::qemu(&image, &devices), &[]).unwrap();
    }
    fs::remove_file(DISK).unwrap();
    table.keep("block.json").unwrap();
}
