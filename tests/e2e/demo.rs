//! What `make demo` shows (`tests/demo`): a machine from inside, and a container.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::process::Command;

use rvm_tests::artifact;
use tempfile::TempDir;

use crate::process::run;

#[test]
fn the_demo_shows_a_machine_its_boot_and_a_container() {
    let directory = TempDir::new().unwrap();
    let script = directory.path().join("demo");
    fs::write(&script, include_str!("../demo")).unwrap();
    let mut command = Command::new("bash");
    command.arg(script).env("RVM_ARTIFACTS", artifact::directory()).env("TMPDIR", directory.path());
    let ran = run(command);
    assert_eq!(ran.status, Some(0), "{ran:?}");

    let kernel = row(&ran.out, "kernel").strip_prefix("Linux ").unwrap().to_owned();
    assert!(kernel.starts_with("6."), "{kernel}");
    assert!(row(&ran.out, "cpus").starts_with("2 x "), "{}", ran.out);
    let memory = row(&ran.out, "memory");
    let mib: u32 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!((200..256).contains(&mib), "{memory}");
    assert_eq!(row(&ran.out, "block"), "vda: 64 MiB, read-write");
    let network = row(&ran.out, "network");
    assert!(network.starts_with("eth0: ") && network.contains("MTU 1500"), "{network}");
    // The table of phases, each with its own time and that of all so far.
    for phase in ["process start", "kernel load", "first instruction", "init to ready"] {
        let line = ran.error.lines().find_map(|line| line.strip_prefix(phase));
        let times = line.unwrap_or_else(|| panic!("no {phase}: {}", ran.error)).split_whitespace();
        let times: Vec<f64> = times.map(|number| number.parse().unwrap()).collect();
        assert!(times.len() == 2 && times[0] <= times[1] && times[1] > 0.0, "{times:?}");
    }
    assert!(ran.out.contains("hello from "), "{}", ran.out);
    assert!(ran.out.trim_end().ends_with(&format!(", on Linux {kernel}")), "{}", ran.out);
    // It takes away what it made.
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["demo"]);
}

/// What stands in the row of this name of the guest's report.
#[track_caller]
fn row<'a>(said: &'a str, name: &str) -> &'a str {
    let rows = said.lines().filter_map(|line| line.strip_prefix(name)).find(|rest| rest.starts_with(' '));
    rows.unwrap_or_else(|| panic!("no row {name} in:\n{said}")).trim()
}
