//! Bad input that takes a superuser or a running VM to make. Everything else is in vmm/tests/cli.

use std::fs::{self, File};
use std::path::PathBuf;

use rvm_tests::guest::Tap;
use tempfile::TempDir;

use super::run::{Running, boot, run};

#[track_caller]
fn refused(arguments: &[&str], status: i32, message: &str) {
    let ran = run(boot(arguments));
    assert_eq!((ran.error, ran.status), (format!("rvm: {message}\n"), Some(status)));
    assert_eq!(ran.out, "");
}

#[test]
fn a_tap_that_is_missing() {
    let message = "there is no tap 'rvm-none' for the network card: make it with `ip tuntap add rvm-none mode tap && ip \
                   link set rvm-none up`";
    refused(&["--net", "rvm-none"], 60, message);
    // None was made by trying.
    assert!(!PathBuf::from("/sys/class/net/rvm-none").exists());
}

#[test]
fn a_tap_that_another_vm_has() {
    let tap = Tap::new("rvm-taken", "192.0.2.1/30").unwrap();
    let running = Running::ready(boot(&["--net", tap.name(), "--", "sleep", "1000"]));
    let message = "tap 'rvm-taken' is taken: another program, perhaps another VM, is connected to it; end that or use \
                   another tap";
    refused(&["--net", tap.name()], 61, message);
    drop(running);
    // It is free again.
    let ran = run(boot(&["--net", tap.name(), "--", "cat", "/sys/class/net/eth0/operstate"]));
    assert_eq!((ran.status, ran.said()), (Some(0), "down\n"));
}

#[test]
fn an_interface_that_is_no_tap() {
    let message = "'lo' is no tap for a network card: it is another kind of interface, or was made with multi_queue; \
                   make one with `ip tuntap add NAME mode tap && ip link set NAME up`";
    refused(&["--net", "lo"], 63, message);
}

#[test]
fn a_disk_that_another_vm_writes_to() {
    let directory = TempDir::new().unwrap();
    let disk = directory.path().join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = disk.to_str().unwrap();
    let running = Running::ready(boot(&["--disk", disk, "--", "sleep", "1000"]));
    let message = format!(
        "cannot open disk '{disk}' for reading and writing: it is in use already; stop what uses it (lslocks lists \
         such), or attach the disk read-only (ro) everywhere"
    );
    refused(&["--disk", disk], 51, &message);
    drop(running);
    assert_eq!(run(boot(&["--disk", disk, "--", "true"])).status, Some(0));
}

#[test]
fn a_vsock_socket_that_another_vm_has() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("vsock");
    let socket = socket.to_str().unwrap();
    let _running = Running::ready(boot(&["--vsock", socket, "--", "sleep", "1000"]));
    let message = format!(
        "cannot make the vsock socket '{socket}': the name is taken; remove it if no VM uses it, or choose another"
    );
    refused(&["--vsock", socket], 65, &message);
    assert!(fs::exists(socket).unwrap());
}
