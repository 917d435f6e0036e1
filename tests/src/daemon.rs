//! containerd, Docker and a registry, for tests that ask for them.
//!
//! In the lab they are started by the first test that asks, and stay for the others. On somebody's machine nothing
//! is started: there they run already, or the test cannot run.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::artifact;

/// Where containerd listens.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where Docker listens.
pub const DOCKER_SOCKET: &str = "/run/docker.sock";

/// Where the registry answers, as it stands before the names of its images. Nobody but this machine reaches it.
pub const REGISTRY: &str = "localhost:5000";

/// Where the lab's daemons have their locks and logs.
const STATE: &str = "/run/rvm-tests";

/// A daemon that is not ready by then will not be (a few seconds are usual).
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not this project's fault: the test cannot run.
    #[error("{name} does not run on this machine")]
    NotHere {
        /// The daemon.
        name: &'static str,
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
    ensure("containerd", Some(CONTAINERD_SOCKET), || launch("containerd", Command::new("containerd")))
}

/// What the lab's containerd logged. Elsewhere nobody knows where that is.
pub fn log_of_containerd() -> Option<String> {
    artifact::in_lab().then(|| fs::read_to_string(file("containerd", "log")).unwrap_or_default())
}

/// Whether containerd, which runs, has this snapshotter, and it works here.
pub fn has_snapshotter(name: &str) -> bool {
    let listed = Command::new("ctr").args(["plugins", "ls"]).output();
    let lines = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    lines.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.starts_with(&["io.containerd.snapshotter.v1", name]) && words.last() == Some(&"ok")
    })
}

/// Sees to it that Docker runs, on the same containerd.
pub fn docker() -> Result<(), Error> {
    if artifact::in_lab() {
        containerd()?;
    }
    let mut dockerd = Command::new("dockerd");
    dockerd.args(["--containerd", CONTAINERD_SOCKET, "--host", &format!("unix://{DOCKER_SOCKET}")]);
    ensure("dockerd", Some(DOCKER_SOCKET), || launch("dockerd", dockerd))
}

/// Sees to it that a registry runs that has the lab's container images (`tests/lab/images`), each as `latest`, and
/// takes no others.
pub fn registry() -> Result<(), Error> {
    const NAME: &str = "docker-registry";
    let start = |error| Error::Start(NAME, error);
    ensure(NAME, None, || {
        let storage = images().map_err(start)?.join("registry");
        let config = Path::new(STATE).join("registry.yml");
        let text = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": {
                "filesystem": { "rootdirectory": storage },
                "maintenance": { "readonly": { "enabled": true } },
            },
            "http": { "addr": REGISTRY },
        });
        // What is JSON is YAML.
        fs::write(&config, text.to_string()).map_err(start)?;
        let mut registry = Command::new(NAME);
        registry.arg("serve").arg(config);
        let registry = spawn(registry, &file(NAME, "log")).map_err(start)?;
        // It does not tell when it is ready.
        let asked = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--retry-connrefused"])
            .args(["--retry", &PATIENCE.as_secs().to_string(), "--retry-delay", "1"])
            .arg(format!("http://{REGISTRY}/v2/"))
            .output()
            .map_err(start)?;
        match asked.status.success() {
            true => Ok(registry),
            false => Err(not_ready(NAME, io::Error::other(String::from_utf8_lossy(&asked.stderr)))),
        }
    })
}

/// The lab's container images, mounted: `oci` in it is an OCI layout with each of them under its name.
pub fn images() -> io::Result<PathBuf> {
    let directory = Path::new(STATE).join("images");
    fs::create_dir_all(&directory)?;
    let lock = File::create(file("images", "lock"))?;
    lock.lock()?;
    if !directory.join("oci").exists() {
        let disk = artifact::disk("images").ok_or_else(|| io::Error::other("there is no disk 'images'"))?;
        // A plain file, where there is no lab, is mounted by a loop device.
        let mounted = Command::new("mount").args(["-o", "ro"]).args([&disk, &directory]).output()?;
        if !mounted.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&mounted.stderr).into_owned()));
        }
    }
    Ok(directory)
}

fn ensure(
    name: &'static str,
    socket: Option<&'static str>,
    launch: impl FnOnce() -> Result<Child, Error>,
) -> Result<(), Error> {
    if !artifact::in_lab() {
        return match socket {
            Some(socket) if Path::new(socket).exists() => Ok(()),
            _ => Err(Error::NotHere { name }),
        };
    }
    let start = |error| Error::Start(name, error);
    fs::create_dir_all(STATE).map_err(start)?;
    // One test starts it; the others wait here and find it started.
    let lock = File::create(file(name, "lock")).map_err(start)?;
    lock.lock().map_err(start)?;
    let pid = file(name, "pid");
    if !pid.exists() {
        let daemon = launch()?;
        fs::write(pid, daemon.id().to_string()).map_err(start)?;
    }
    Ok(())
}

/// A file of this daemon.
fn file(name: &str, ending: &str) -> PathBuf {
    Path::new(STATE).join(format!("{name}.{ending}"))
}

fn not_ready(name: &'static str, error: io::Error) -> Error {
    Error::NotReady(name, error, fs::read_to_string(file(name, "log")).unwrap_or_default())
}

/// Starts a daemon that outlives this test.
fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    let output = File::create(log)?;
    // A group of its own, or it would end with the test.
    #[allow(clippy::zombie_processes, reason = "the daemon outlives this process and is PID 1's child then")]
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).spawn()
}

/// Starts a daemon and waits until it says that it is ready, as it would say it to systemd (sd_notify(3)).
fn launch(name: &'static str, mut command: Command) -> Result<Child, Error> {
    let start = |error| Error::Start(name, error);
    let notify = file(name, "notify");
    let ready = UnixDatagram::bind(&notify).map_err(start)?;
    ready.set_read_timeout(Some(PATIENCE)).map_err(start)?;
    command.env("NOTIFY_SOCKET", notify);
    let daemon = spawn(command, &file(name, "log")).map_err(start)?;
    let mut message = [0; 4096];
    loop {
        let length = ready.recv(&mut message).map_err(|error| not_ready(name, error))?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
        if text.lines().any(|line| line == "READY=1") {
            return Ok(daemon);
        }
    }
}
