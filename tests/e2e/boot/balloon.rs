//! The memory of a guest that it does not need goes back to the host.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::run::{PATIENCE, Running, boot};

/// Resident memory of the VMM, the guest's in it, in MiB.
fn resident(running: &Running) -> u64 {
    let statm = fs::read_to_string(running.proc("statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / (1 << 20)
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    const MIB: u64 = 48;
    let script = format!(
        "dd if=/dev/zero of=/tmp/file bs=1M count={MIB} 2>/dev/null; echo full; read line; rm /tmp/file; exec sleep 1000"
    );
    let mut command = boot(&["--memory", "256M", "--balloon", "0,reporting=on", "--", "sh", "-c", &script]);
    command.stdin(Stdio::piped());
    let mut running = Running::ready(command);
    running.out.wait_for("full");
    let full = resident(&running);
    assert!(full > MIB, "{full} MiB");
    running.input().write_all(b"go\n").unwrap();
    // Linux reports what has been free for two seconds, in several goes.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = resident(&running);
        if now < full - MIB * 4 / 5 {
            break;
        }
        assert!(Instant::now() < deadline, "from {full} to {now} MiB");
        std::thread::sleep(Duration::from_millis(100));
    }
}
