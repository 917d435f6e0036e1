//! A containerd of the test's own, so that no other test sees what is done to it, or how it is configured.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{PATIENCE, Ran, run};

/// The configuration of the host's containerd.
const HOST_CONFIG: &str = "/etc/containerd/config.toml";

/// Plugins that nobody asks here, whose sockets only one containerd can have.
pub const DISABLED: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"];

/// A containerd whose files are all in one directory.
pub struct Containerd {
    /// Of containers: pods of other containerds that have the same names are told apart by it.
    namespace: &'static str,
    directory: tempfile::TempDir,
    /// Where that is which it finds in /etc/containerd and /usr/local, if not there.
    root: Option<PathBuf>,
    daemon: Option<Child>,
}

/// `containerd` as on a host where /etc/containerd and /usr/local are those below `root`, and which has no other shim.
pub fn on_host(root: &Path) -> Command {
    let script = "mount --bind $0/etc/containerd /etc/containerd && mount --bind $0/usr/local /usr/local && \
                  exec containerd \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(root);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

impl Containerd {
    /// Starts one, with this configuration behind that of the host ([`Self::exactly`]).
    pub fn with(namespace: &'static str, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let imports: &[&str] = if Path::new(HOST_CONFIG).exists() { &[HOST_CONFIG] } else { &[] };
        let head = format!("version = 2\nimports = {imports:?}\ndisabled_plugins = {DISABLED:?}\n");
        Self::exactly(namespace, &(head + config), prepare)
    }

    /// Starts one with this configuration, in which `{DIR}` is its directory, where `prepare` may have made files before.
    pub fn exactly(namespace: &'static str, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut containerd = Self { namespace, directory, root: None, daemon: None };
        prepare(containerd.directory.path());
        let config = config.replace("{DIR}", &containerd.path(""));
        fs::write(containerd.path("config.toml"), config).unwrap();
        containerd.start();
        containerd
    }

    /// Starts one that is configured as the host's.
    pub fn new(namespace: &'static str) -> Self {
        Self::with(namespace, "", |_| {})
    }

    /// Starts one as on the host whose files are below `root` ([`on_host`]), configured as that is.
    pub fn of_host(namespace: &'static str, root: &Path) -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut containerd = Self { namespace, directory, root: Some(root.to_owned()), daemon: None };
        containerd.start();
        containerd
    }

    /// The namespace of its containers.
    pub fn namespace(&self) -> &'static str {
        self.namespace
    }

    /// How many bundles of tasks there are.
    pub fn bundles(&self) -> usize {
        let bundles =
            Path::new(&self.path("state")).join("io.containerd.runtime.v2.task").join(self.namespace);
        fs::read_dir(bundles).into_iter().flatten().count()
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).into_os_string().into_string().unwrap()
    }

    /// Starts it; waits until it answers.
    pub fn start(&mut self) {
        let mut command = self.root.as_deref().map_or_else(|| Command::new("containerd"), on_host);
        if self.root.is_none() {
            command.args(["--config", &self.path("config.toml")]);
        }
        // In the lab nobody makes device nodes but who makes the devices.
        command.env("DM_DISABLE_UDEV", "1");
        command.args(["--root", &self.path("root"), "--state", &self.path("state")]);
        command.args(["--address", &self.path("socket")]);
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let begin = std::time::Instant::now();
        while self.try_to(&["version"]).status != Some(0) {
            assert!(begin.elapsed() < PATIENCE, "containerd does not answer; its log:\n{}", self.log());
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends it.
    pub fn end(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), signal).unwrap();
        daemon.wait().unwrap();
    }

    /// Runs `ctr` to its end.
    pub fn try_to(&self, arguments: &[&str]) -> Ran {
        run(self.ctr(arguments))
    }

    /// `ctr` to it, without input.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.path("socket"), "--namespace", self.namespace]);
        command.args(arguments).stdin(Stdio::null());
        command
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
