//! A VM that has ended has left nothing on the host, however it ended.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rvm_tests::guest::Tap;
use tempfile::TempDir;

use super::run::{Running, boot};

/// Names in a directory.
fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Threads of the host's kernel and processes that came with VMs, by their names.
fn processes_of_vms() -> Vec<String> {
    let comm = |pid: String| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let names = names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()).filter_map(comm);
    names.filter(|name| name.starts_with("kvm-pit") || name.starts_with("kvm-nx-lpage")).collect()
}

#[test]
fn nothing_is_left_after_any_end() {
    let directory = TempDir::new().unwrap();
    let tap = Tap::new("rvm-left", "192.0.2.5/30").unwrap();
    let disk = directory.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let before = (names(directory.path()), names("/sys/class/net"), names("/dev/shm"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let socket = directory.path().join("vsock");

    for end in [Some(Signal::SIGTERM), Some(Signal::SIGKILL), None] {
        let command = if end.is_none() { "true" } else { "sleep" };
        let running = Running::ready(boot(&[
            "--disk",
            disk.to_str().unwrap(),
            "--net",
            tap.name(),
            "--vsock",
            socket.to_str().unwrap(),
            "--",
            command,
            "1000",
        ]));
        assert!(socket.exists());
        if let Some(signal) = end {
            running.signal(signal);
        }
        running.end();
        if end == Some(Signal::SIGKILL) {
            // Nobody was left to remove it; the next VM is told by what it has to be removed.
            fs::remove_file(&socket).unwrap();
        }
        let after = (names(directory.path()), names("/sys/class/net"), names("/dev/shm"));
        assert_eq!(after, before, "{end:?}");
        assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts);
    }
    assert_eq!(processes_of_vms(), [""; 0]);
}
