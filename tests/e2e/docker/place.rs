//! Docker, with rvm as the runtime of what a test runs. Names of containers and networks begin with the test's own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rvm_tests::daemon::{self, Error};
use serde_json::Value;

use crate::process::{PATIENCE, Ran, pause, run};
use crate::traces::{is_vmm, of_pod, shims_and_vmms};

/// The image of most tests.
pub const BUSYBOX: &str = "localhost:5000/busybox";

/// Docker, for one test.
pub struct Docker;

impl Docker {
    /// `None`, and the reason told, where there is none.
    #[track_caller]
    pub fn new() -> Option<Self> {
        Self::with(BUSYBOX)
    }

    /// The same, with this image pulled.
    #[track_caller]
    pub fn with(image: &str) -> Option<Self> {
        match daemon::docker().and_then(|()| daemon::registry()) {
            Err(error @ Error::NotHere { .. }) => {
                rvm_tests::cannot_run(&error.to_string());
                return None;
            }
            other => other.unwrap(),
        }
        Self.pull(image);
        Some(Self)
    }

    /// Sees to it that this image is there, which one test at a time pulls.
    #[track_caller]
    pub fn pull(&self, image: &str) {
        let lock = File::create("/run/rvm-tests/docker-pull.lock").unwrap();
        lock.lock().unwrap();
        if ask("GET", &format!("/images/{image}/json")).0 != "200" {
            self.said(&["pull", "--quiet", image]);
        }
    }

    /// `docker` without input.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `docker` to its end.
    pub fn try_to(&self, arguments: &[&str]) -> Ran {
        run(Self::command(arguments))
    }

    /// What `docker` says on standard output, whose end is to be 0.
    #[track_caller]
    pub fn said(&self, arguments: &[&str]) -> String {
        let ran = self.try_to(arguments);
        assert_eq!(ran.status, Some(0), "docker {arguments:?}: {ran:?}");
        ran.out.trim_end().to_owned()
    }

    /// `docker run --rm` with these flags, the image and the command.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Ran {
        self.try_to(&[&["run", "--rm", "--runtime", RUNTIME], flags, &[BUSYBOX], command].concat())
    }

    /// `docker run -d` with this name and these flags.
    #[track_caller]
    pub fn start(&self, name: &str, flags: &[&str], command: &[&str]) {
        self.said(
            &[&["run", "-d", "--runtime", RUNTIME, "--name", name], flags, &[BUSYBOX], command].concat(),
        );
    }

    /// A shell's words in a running container: its output.
    #[track_caller]
    pub fn exec(&self, name: &str, script: &str) -> String {
        self.said(&["exec", name, "sh", "-c", script])
    }

    /// One field of what `docker inspect` tells of a container, ".State.Status".
    #[track_caller]
    pub fn inspect(&self, name: &str, field: &str) -> String {
        let (status, answer) = ask("GET", &format!("/containers/{name}/json"));
        assert_eq!(status, "200", "{name}: {answer}");
        let container: Value = serde_json::from_str(&answer).unwrap();
        let value = field.split('.').skip(1).fold(&container, |value, key| &value[key]);
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    /// Asks for a field until it is this.
    #[track_caller]
    pub fn until_is(&self, name: &str, field: &str, expected: &str) {
        let begin = Instant::now();
        while self.inspect(name, field) != expected {
            assert!(begin.elapsed() < PATIENCE, "{name}: {field} is {}", self.inspect(name, field));
            pause();
        }
    }

    /// Removes containers, whether or not they run.
    #[track_caller]
    pub fn remove(&self, names: &[&str]) {
        for name in names {
            let (status, answer) = ask("DELETE", &format!("/containers/{name}?force=1"));
            assert_eq!(status, "204", "{name}: {answer}");
        }
    }

    /// Asks until `done` says so of the answer.
    #[track_caller]
    pub fn until(&self, arguments: &[&str], done: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let ran = self.try_to(arguments);
            if done(&ran.out) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "docker {arguments:?}: {ran:?}");
            pause();
        }
    }

    /// Removes a container, and waits until nothing of it is left on the host: processes, sockets, mounts, its control group
    /// and its network namespace, with what was in that.
    #[track_caller]
    pub fn removes_all_of(&self, name: &str) {
        let [id, vmm, network] =
            [".Id", ".State.Pid", ".NetworkSettings.SandboxKey"].map(|field| self.inspect(name, field));
        self.remove(&[name]);
        let traces = || {
            let mut traces = shims_and_vmms("moby", |pod| pod == id);
            traces.extend(of_pod(daemon::CONTAINERD_SOCKET, "moby", &id));
            // 0: it does not run.
            let vmm = vmm.parse().unwrap();
            traces.extend((vmm != 0 && is_vmm(vmm)).then(|| format!("the VMM {vmm}")));
            let paths = [
                format!("/run/containerd/io.containerd.runtime.v2.task/moby/{id}"),
                format!("/sys/fs/cgroup/docker/{id}"),
                network.clone(),
            ];
            traces.extend(paths.into_iter().filter(|path| !path.is_empty() && Path::new(path).exists()));
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            traces.extend(mounts.lines().filter(|line| line.contains(&id)).map(str::to_owned));
            traces
        };
        let begin = Instant::now();
        while !traces().is_empty() {
            assert!(begin.elapsed() < PATIENCE, "left of {name}: {:#?}", traces());
            pause();
        }
    }
}

/// The status and the answer of one request of Docker's API, for what a test wants to know or have done in passing: the
/// client takes 0.4 billion instructions to start (docs/budgets.md), which is a second of a lab.
#[track_caller]
fn ask(method: &str, path: &str) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--unix-socket", daemon::DOCKER_SOCKET]);
    curl.args(["--request", method, "--write-out", "\n%{http_code}", &format!("http://docker{path}")]);
    let ran = run(curl);
    assert_eq!(ran.status, Some(0), "{method} {path}: {ran:?}");
    let (answer, status) = ran.out.rsplit_once('\n').unwrap();
    (status.to_owned(), answer.to_owned())
}

/// The runtime under test.
pub const RUNTIME: &str = "io.containerd.rvm.v2";
