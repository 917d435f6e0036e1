//! containerd ends and is started again while containers run. A containerd of the test's own, so that no other test sees it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rvm_tests::daemon::{self, Error};

use super::place::{BUSYBOX, RUNTIME};
use crate::process::{PATIENCE, Ran, run};

/// A containerd whose files are all in one directory.
struct Containerd {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Containerd {
    fn new() -> Self {
        let mut containerd = Self { directory: tempfile::tempdir_in("/var/tmp").unwrap(), daemon: None };
        containerd.start();
        containerd
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).into_os_string().into_string().unwrap()
    }

    fn start(&mut self) {
        let mut command = Command::new("containerd");
        command.args(["--root", &self.path("root"), "--state", &self.path("state")]);
        command.args(["--address", &self.path("socket")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
        let begin = std::time::Instant::now();
        while self.try_to(&["version"]).status != Some(0) {
            assert!(begin.elapsed() < PATIENCE, "containerd does not answer");
        }
    }

    fn end(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), signal).unwrap();
        daemon.wait().unwrap();
    }

    fn try_to(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.path("socket")]).args(arguments).stdin(Stdio::null());
        run(command)
    }

    #[track_caller]
    fn said(&self, arguments: &[&str]) -> String {
        let ran = self.try_to(arguments);
        assert_eq!(ran.status, Some(0), "ctr {arguments:?}: {ran:?}");
        ran.out
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.end(Signal::SIGKILL);
        }
    }
}

#[test]
fn containers_go_on_while_containerd_is_started_again() {
    match daemon::registry() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let mut containerd = Containerd::new();
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
