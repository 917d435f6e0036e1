//! A VM that has ended has left nothing on the host, however it ended.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
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

/// Threads of the host's kernel that came with this VM.
fn kernel_threads_of(vm: Pid) -> Vec<String> {
    let comm = |pid: String| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let names = names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()).filter_map(comm);
    names.filter(|name| name.trim_end() == format!("kvm-pit/{vm}")).collect()
}

/// The network interfaces of this thread's namespace.
fn interfaces() -> Vec<String> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The mounts of this thread's namespace.
fn mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().map(str::to_owned).collect()
}

#[test]
fn nothing_is_left_after_any_end() {
    // What other tests do meanwhile is not seen here.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let directory = TempDir::new().unwrap();
    let tap = Tap::new("rvm-left", "192.0.2.5/30").unwrap();
    let disk = directory.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let before = (names(directory.path()), interfaces());
    let mounts_before = mounts();
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
        let vm = running.pid();
        running.end();
        if end == Some(Signal::SIGKILL) {
            // Nobody was left to remove it; the next VM is told by what it has to be removed.
            fs::remove_file(&socket).unwrap();
        }
        assert_eq!((names(directory.path()), interfaces()), before, "{end:?}");
        // Where another test removes what a mount is on, that goes in all namespaces.
        let mut new = mounts();
        for mount in &mounts_before {
            new.iter().position(|now| now == mount).map(|place| new.swap_remove(place));
        }
        assert_eq!(new, [""; 0], "{end:?}");
        assert_eq!(kernel_threads_of(vm), [""; 0], "{end:?}");
    }
}
