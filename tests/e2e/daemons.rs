//! The callers that rvm is made for come up in the lab: containerd and Docker.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;

use rvm_tests::daemon::{self, Error};

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    text
}

#[test]
fn containerd_answers_with_its_version() {
    match daemon::containerd() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let text = output_of("ctr", &["version"]);
    let server = text.split_once("Server:").unwrap().1;
    assert!(server.contains("Version:"), "{text}");
}

#[test]
fn docker_answers_with_its_version() {
    match daemon::docker() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let version = output_of("docker", &["version", "--format", "{{.Server.Version}}"]);
    assert!(version.trim().split('.').count() >= 3, "{version}");
}
