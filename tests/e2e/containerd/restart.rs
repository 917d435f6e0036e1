//! containerd ends and is started again while containers run.

use std::path::Path;

use nix::sys::signal::Signal;
use rvm_tests::daemon::{self, Error};

use super::own::Containerd;
use super::place::{BUSYBOX, RUNTIME};
use crate::process::PATIENCE;

#[test]
fn containers_go_on_while_containerd_is_started_again() {
    match daemon::registry() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let mut containerd = Containerd::new("version = 2\n");
    containerd.said(&["images", "pull", "--local", "--plain-http", BUSYBOX]);
    for (number, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        let id = format!("c{number}");
        let script = "echo here >/file; sleep 1000";
        containerd.said(&["run", "-d", "--runtime", RUNTIME, BUSYBOX, &id, "sh", "-c", script]);
        containerd.end(signal);
        containerd.start();

        let tasks = containerd.said(&["tasks", "ls"]);
        assert!(tasks.lines().any(|line| line.starts_with(&id) && line.contains("RUNNING")), "{tasks}");
        let read =
            ["tasks", "exec", "--exec-id", "e", &id, "sh", "-c", "until cat /file; do sleep 0.1; done"];
        assert_eq!(containerd.said(&read), "here\n");
        containerd.said(&["tasks", "kill", "--signal", "SIGKILL", &id]);
        // Its end is told to the containerd that is there now.
        let begin = std::time::Instant::now();
        while !containerd.said(&["tasks", "ls"]).contains("STOPPED") {
            assert!(begin.elapsed() < PATIENCE, "the end is not told");
        }
        containerd.said(&["tasks", "rm", &id]);
        containerd.said(&["containers", "rm", &id]);
        let bundles = Path::new(&containerd.path("state")).join("io.containerd.runtime.v2.task/default");
        assert_eq!(std::fs::read_dir(bundles).into_iter().flatten().count(), 0);
    }
}
