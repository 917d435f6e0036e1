//! A stock Debian 12 (`tests/lab/debian`), with its own init on an ext4 disk, lives in a VM of ours.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rvm_tests::artifact;
use rvm_tests::guest::{Guest, Tap};

/// Debian's own init takes some ten seconds where the CPU is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the guest's echo service gives back.
fn echo(words: &str) -> String {
    let address = "192.168.249.2:7".parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    // The login prompt may come before the network is up.
    let mut stream = loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "the guest's port 7: {error}"),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn debian_boots_to_a_login_prompt_with_a_network_and_powers_off() {
    let Some(disk) = artifact::disk("debian") else {
        return rvm_tests::cannot_run("no Debian disk: `make test` makes one");
    };
    let tap = Tap::new("rvm-debian", "192.168.249.1/24").unwrap();
    let kernel = artifact::vmlinux();
    let mut guest = Guest::boot([
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--memory".as_ref(),
        "512M".as_ref(),
        "--disk".as_ref(),
        disk.as_os_str(),
        "--net".as_ref(),
        tap.name().as_ref(),
        "--cmdline".as_ref(),
        "root=/dev/vda rw quiet".as_ref(),
    ])
    .unwrap();

    guest.wait_for("debian-guest login: ", PATIENCE).unwrap();
    assert_eq!(echo("from the host"), "from the host");

    guest.enter("root").unwrap();
    guest.wait_for("root@debian-guest:~#", PATIENCE).unwrap();
    guest.enter("ping -c 1 192.168.249.1 && systemctl poweroff").unwrap();
    guest.wait_for("1 received", PATIENCE).unwrap();
    let (_, status) = guest.end(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0));
}
