//! A containerd of a test's own, whose files are all in one directory: to be ended and started again, or configured
//! otherwise, and no other test sees it.

use std::fs;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{PATIENCE, Ran, run};

/// The daemon; ended when dropped.
pub struct Containerd {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Containerd {
    /// Starts one with a configuration, in whose text `DIRECTORY` stands for [`Containerd::path`] of nothing.
    pub fn new(configuration: &str) -> Self {
        let mut containerd = Self { directory: tempfile::tempdir_in("/var/tmp").unwrap(), daemon: None };
        let text = configuration.replace("DIRECTORY", containerd.directory.path().to_str().unwrap());
        fs::write(containerd.path("config.toml"), text).unwrap();
        containerd.start();
        containerd
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).into_os_string().into_string().unwrap()
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        let mut command = Command::new("containerd");
        command.args(["--config", &self.path("config.toml")]);
        command.args(["--root", &self.path("root"), "--state", &self.path("state")]);
        command.args(["--address", &self.path("socket")]);
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let begin = std::time::Instant::now();
        while self.try_to(&["version"]).status != Some(0) {
            assert!(begin.elapsed() < PATIENCE, "containerd does not answer: {}", self.log());
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends it by a signal.
    pub fn end(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), signal).unwrap();
        daemon.wait().unwrap();
    }

    /// Runs `ctr` to its end.
    pub fn try_to(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.path("socket")]).args(arguments).stdin(Stdio::null());
        run(command)
    }

    /// What `ctr` says, whose end is to be 0.
    #[track_caller]
    pub fn said(&self, arguments: &[&str]) -> String {
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
