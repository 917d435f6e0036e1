//! `rvm doctor` with the real program: its exit status tells scripts which host this is.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rvm_tests::artifact;
use serde_json::Value;

/// A user with no right to anything.
const NOBODY: &str = "65534";

/// What it prints with `--json`.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_host_that_runs_this_test_can_run_virtual_machines() {
    let output = Command::new(artifact::rvm()).args(["doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    assert_eq!(report["verdict"], "can_run", "{report}");
    let names: Vec<_> = report["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert!(
        names.starts_with(&[&"kvm".into(), &"tun".into(), &"vsock".into(), &"cgroup".into()]),
        "{report}"
    );
}

#[test]
fn a_host_without_kvm_is_status_10() {
    let script = "mount -t tmpfs none /dev && exec \"$0\" doctor --json";
    let mut command = Command::new("unshare");
    let output = command.args(["--mount", "sh", "-c", script]).arg(artifact::rvm()).output().unwrap();
    assert_eq!(output.status.code(), Some(10), "{output:?}");
    assert_eq!(json(&output)["verdict"], "no_kvm");
}

#[test]
fn a_user_without_permission_is_status_11() {
    // The program may lie where nobody but root may look.
    let directory = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = directory.path().join("rvm");
    std::fs::copy(artifact::rvm(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
    let output = command.args(["doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    assert_eq!(json(&output)["verdict"], "no_permission");
}
