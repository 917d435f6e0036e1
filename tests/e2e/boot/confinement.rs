//! What the process of a running VM may do, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::run::{Running, boot};
use crate::rights;

/// A field of each thread's `status` in /proc, by the thread's name.
fn of_threads(running: &Running, field: &str) -> BTreeMap<String, String> {
    let threads = rights::of_threads(running.pid().as_raw());
    threads.into_iter().map(|status| (status["Name"].clone(), status[field].clone())).collect()
}

#[test]
fn every_thread_is_confined_by_a_filter() {
    let running = Running::ready(boot(&["--cpus", "2", "--", "sleep", "1000"]));
    let mut filters = of_threads(&running, "Seccomp");
    // Workers of the host's kernel, which it makes part of the process.
    filters.retain(|name, _| !name.starts_with("kvm-"));
    // 2 is SECCOMP_MODE_FILTER.
    let expected = ["rvm", "rvm-balloon", "rvm-rng", "rvm-vcpu0", "rvm-vcpu1"];
    assert_eq!(filters, expected.map(|name| (name.to_owned(), "2".to_owned())).into());
    assert!(of_threads(&running, "NoNewPrivs").values().all(|value| value == "1"));
}

#[test]
fn nothing_of_root_is_left_but_what_the_file_server_needs() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = disk.display().to_string();
    for seccomp in [&[][..], &["--no-seccomp"]] {
        let flags = ["--cpus", "2", "--disk", &disk, "--", "sleep", "1000"];
        let mut running = Running::ready(boot(&[seccomp, &flags].concat()));
        let threads = ["rvm", "rvm-vcpu0", "rvm-vcpu1", "rvm-block", "rvm-rng", "rvm-balloon"];
        rights::are_given_up(running.pid().as_raw(), false, &threads);
        // It hears of signals, and prints.
        running.signal(Signal::SIGUSR1);
        running.error.wait_for("port writes");
    }
    let share = format!("{},tag=x", directory.path().display());
    let running = Running::ready(boot(&["--share", &share, "--", "sleep", "1000"]));
    rights::are_given_up(running.pid().as_raw(), true, &["rvm", "rvm-vcpu0", "rvm-rng", "rvm-balloon"]);
}

#[test]
fn a_socket_in_a_directory_of_roots_alone_works_and_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let socket = directory.path().join("vm.sock");
    let vsock = socket.display().to_string();
    let running = Running::ready(boot(&["--vsock", &vsock, "--", "sleep", "1000"]));
    rights::are_given_up(running.pid().as_raw(), false, &["rvm-vsock"]);
    UnixStream::connect(&socket).unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().error, "rvm: ended by SIGTERM\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn of_the_hosts_files_only_what_is_shared_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let (shared, sockets) = (directory.path().join("shared"), directory.path().join("sockets"));
    for path in [&shared, &sockets] {
        fs::create_dir(path).unwrap();
    }
    fs::write(shared.join("file"), "of the host").unwrap();
    let share = format!("{},tag=x", shared.display());
    let socket = sockets.join("vm.sock").display().to_string();
    let running = Running::ready(boot(&["--share", &share, "--vsock", &socket, "--", "sleep", "1000"]));

    let entries = |path: &str| {
        let entries = fs::read_dir(running.proc(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(entries("root"), ["1", "2", "3"].map(str::to_owned).into());
    assert_eq!(entries("root/1"), ["file".to_owned()].into());
    assert!(entries("root/2").contains("0"), "its descriptors");
    assert_eq!(entries("root/3"), ["vm.sock".to_owned()].into());
    assert_eq!(fs::read_dir(running.proc("cwd")).unwrap().count(), 3, "the root as well");
    // Nothing is below or above, either: the root, and these.
    let mounts = fs::read_to_string(running.proc("mountinfo")).unwrap();
    let points: Vec<_> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(points, ["/", "/1", "/2", "/3"]);
    assert!(mounts.lines().next().unwrap().contains(" / / ro,"), "{mounts}");

    for namespace in ["ns/mnt", "ns/ipc", "ns/uts"] {
        let own = fs::read_link(running.proc(namespace)).unwrap();
        assert_ne!(own, fs::read_link(Path::new("/proc/self").join(namespace)).unwrap());
    }
}

#[test]
fn what_is_mounted_in_a_shared_directory_later_appears() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::create_dir(shared.join("later")).unwrap();
    host(&["mount", "--bind", shared.to_str().unwrap(), shared.to_str().unwrap()]);
    host(&["mount", "--make-shared", shared.to_str().unwrap()]);
    let share = format!("{},tag=x", shared.display());
    let running = Running::ready(boot(&["--share", &share, "--", "sleep", "1000"]));
    let later = shared.join("later");
    host(&["mount", "-t", "tmpfs", "later", later.to_str().unwrap()]);
    fs::write(later.join("file"), "of the host").unwrap();
    let seen = fs::read_to_string(running.proc("root/1/later/file"));
    host(&["umount", later.to_str().unwrap()]);
    let gone = fs::read_dir(running.proc("root/1/later")).unwrap().count();
    host(&["umount", shared.to_str().unwrap()]);
    assert_eq!((seen.unwrap().as_str(), gone), ("of the host", 0));
}

/// Runs a command of the host.
fn host(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn filters_are_left_out_when_asked() {
    let running = Running::ready(boot(&["--no-seccomp", "--", "sleep", "1000"]));
    assert!(of_threads(&running, "Seccomp").values().all(|mode| mode == "0"));
}

#[test]
fn a_running_vm_holds_only_the_descriptors_it_needs() {
    let running = Running::ready(boot(&["--", "sleep", "1000"]));
    let files = fs::read_dir(running.proc("fd")).unwrap();
    let targets = files.map(|file| fs::read_link(file.unwrap().path()).unwrap().display().to_string());
    let allowed = |target: &str| {
        let kinds = ["pipe:", "anon_inode:"];
        kinds.iter().any(|kind| target.starts_with(kind)) || ["/dev/null", "/urandom"].contains(&target)
    };
    // Paths of what is open end at its file system: its root is the VM's no more. Neither the kernel nor the initrd, nor any directory.
    let others: Vec<_> = targets.filter(|target| !allowed(target)).collect();
    assert_eq!(others, [""; 0]);
}
