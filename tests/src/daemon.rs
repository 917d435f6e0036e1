//! containerd and Docker, for tests that ask for them.
//!
//! In the lab they are started by the first test that asks, and stay for the others. On somebody's machine nothing
//! is started: there they run already, or the test cannot run.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::artifact;

/// Where containerd listens.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where Docker listens.
pub const DOCKER_SOCKET: &str = "/run/docker.sock";

/// Where the lab's daemons have their locks and logs.
const STATE: &str = "/run/rvm-tests";

/// A daemon that is not ready by then will not be (a few seconds are usual).
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not this project's fault: the test cannot run.
    #[error("{name} does not run on this machine ({socket} is missing)")]
    NotHere {
        /// The daemon.
        name: &'static str,
        /// Where it would listen.
        socket: &'static str,
    },
    /// The lab's daemon cannot be started.
    #[error("cannot start {0}")]
    Start(&'static str, #[source] io::Error),
    /// The lab's daemon does not come up; with its log.
    #[error("{0} did not say that it is ready: {1}; its log:\n{2}")]
    NotReady(&'static str, io::Error, String),
}

/// Sees to it that containerd runs.
pub fn containerd() -> Result<(), Error> {
    ensure("containerd", CONTAINERD_SOCKET, Command::new("containerd"))
}

/// Sees to it that Docker runs, on the same containerd.
pub fn docker() -> Result<(), Error> {
    if artifact::in_lab() {
        containerd()?;
    }
    let mut dockerd = Command::new("dockerd");
    dockerd.args(["--containerd", CONTAINERD_SOCKET, "--host", &format!("unix://{DOCKER_SOCKET}")]);
    ensure("dockerd", DOCKER_SOCKET, dockerd)
}

fn ensure(name: &'static str, socket: &'static str, command: Command) -> Result<(), Error> {
    if !artifact::in_lab() {
        return if Path::new(socket).exists() { Ok(()) } else { Err(Error::NotHere { name, socket }) };
    }
    let start = |error| Error::Start(name, error);
    fs::create_dir_all(STATE).map_err(start)?;
    let file = |ending: &str| Path::new(STATE).join(format!("{name}.{ending}"));
    // One test starts it; the others wait here and find it started.
    let lock = File::create(file("lock")).map_err(start)?;
    lock.lock().map_err(start)?;
    let pid = file("pid");
    if !pid.exists() {
        launch(name, command, &file("log"), &file("notify"), &pid)?;
    }
    Ok(())
}

/// Starts a daemon and waits until it says that it is ready, as it would say it to systemd (sd_notify(3)).
fn launch(
    name: &'static str,
    mut command: Command,
    log: &Path,
    notify: &PathBuf,
    pid: &Path,
) -> Result<(), Error> {
    let start = |error| Error::Start(name, error);
    let ready = UnixDatagram::bind(notify).map_err(start)?;
    ready.set_read_timeout(Some(PATIENCE)).map_err(start)?;
    let output = File::create(log).map_err(start)?;
    // A group of its own, or it would end with the test.
    #[allow(clippy::zombie_processes, reason = "the daemon outlives this process and is PID 1's child then")]
    let daemon = command
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(start)?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let mut message = [0; 4096];
    loop {
        let length = ready
            .recv(&mut message)
            .map_err(|error| Error::NotReady(name, error, fs::read_to_string(log).unwrap_or_default()))?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
        if text.lines().any(|line| line == "READY=1") {
            return fs::write(pid, daemon.id().to_string()).map_err(start);
        }
    }
}
