//! A place of its own for a test at containerd: a namespace, with the means to tell what is left of its containers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rvm_tests::daemon::{self, Error};

use crate::process::{Ran, Running, run};
pub use crate::traces::parent;
use crate::traces::{is_vmm, of_pod, shims_and_vmms};

/// The runtime under test.
pub const RUNTIME: &str = "io.containerd.rvm.v2";

/// The image of most tests.
pub const BUSYBOX: &str = "localhost:5000/busybox:latest";

/// Names that tests give pods without `ctr`.
const PODS: [&str; 3] = ["p1", "p2", "p3"];

/// A namespace of containerd.
pub struct Place {
    name: &'static str,
    /// All that `ctr` was told, the names of containers among it.
    told: Mutex<BTreeSet<String>>,
    /// VMMs that were seen.
    vmms: Mutex<BTreeSet<i32>>,
}

impl Place {
    /// A namespace with the image in it; `None`, and the reason told, where there is no containerd.
    #[track_caller]
    pub fn new(name: &'static str) -> Option<Self> {
        Self::with_snapshotter(name, "overlayfs")
    }

    /// The same, with the image unpacked by this snapshotter, where containerd has it.
    #[track_caller]
    pub fn with_snapshotter(name: &'static str, snapshotter: &str) -> Option<Self> {
        match daemon::containerd().and_then(|()| daemon::registry()) {
            Err(error @ Error::NotHere { .. }) => {
                rvm_tests::cannot_run(&error.to_string());
                return None;
            }
            other => other.unwrap(),
        }
        // Every containerd has the first.
        if snapshotter != "overlayfs" && !daemon::has_snapshotter(snapshotter) {
            rvm_tests::cannot_run(&format!("containerd has no snapshotter '{snapshotter}'"));
            return None;
        }
        let told = Mutex::new(PODS.map(str::to_owned).into());
        let place = Self { name, told, vmms: Mutex::default() };
        // One at a time: they are the same layers.
        let lock = File::create("/run/rvm-tests/pull.lock").unwrap();
        lock.lock().unwrap();
        // Unpacked by ctr itself: containerd unpacks for its default snapshotter alone.
        place.said(&["images", "pull", "--local", "--plain-http", "--snapshotter", snapshotter, BUSYBOX]);
        Some(place)
    }

    /// `ctr` in this namespace, without input.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        self.told.lock().unwrap().extend(arguments.iter().copied().map(str::to_owned));
        let mut command = Command::new("ctr");
        command.args(["--namespace", self.name]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `ctr` to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.ctr(arguments))
    }

    /// Runs a container to its end: `ctr run --rm`, with these flags and the command.
    pub fn container(&self, flags: &[&str], id: &str, command: &[&str]) -> Ran {
        run(self.ctr(&[&["run", "--rm", "--runtime", RUNTIME], flags, &[BUSYBOX, id], command].concat()))
    }

    /// Starts a container in the background.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], id: &str, command: &[&str]) {
        self.said(&[&["run", "-d", "--runtime", RUNTIME], flags, &[BUSYBOX, id], command].concat());
    }

    /// Starts `ctr`, to talk with.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.ctr(arguments);
        command.stdin(Stdio::piped());
        Running::start(command)
    }

    /// What `ctr` says, whose end is to be 0.
    #[track_caller]
    pub fn said(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status, Some(0), "ctr {arguments:?}: {ran:?}");
        ran.out
    }

    /// What `ctr tasks ls` has of a task: its process and its state.
    #[track_caller]
    pub fn task(&self, id: &str) -> (i32, String) {
        let list = self.said(&["tasks", "ls"]);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        let words: Vec<_> =
            line.unwrap_or_else(|| panic!("no task {id}: {list}")).split_whitespace().collect();
        let pid = words[1].parse().unwrap();
        self.vmms.lock().unwrap().extend(is_vmm(pid).then_some(pid));
        (pid, words[2].to_owned())
    }

    /// Waits until a task has this state.
    pub fn wait_for(&self, id: &str, state: &str) {
        while self.task(id).1 != state {
            crate::process::pause();
        }
    }

    /// Ends a container and removes it.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.said(&["tasks", "rm", "-f", id]);
        self.said(&["containers", "rm", id]);
    }

    /// Everything that a container of this namespace can leave on the host: processes, sockets, mounts, control groups,
    /// files. Taps and redirections are in network namespaces, which are gone with the VMM where it alone had them.
    pub fn traces(&self) -> BTreeSet<String> {
        let mut traces: BTreeSet<_> = shims_and_vmms(self.name, |_| true).into_iter().collect();
        // Of a shim that is gone as well.
        let vmms = self.vmms.lock().unwrap();
        traces.extend(vmms.iter().filter(|pid| is_vmm(**pid)).map(|pid| format!("the VMM {pid}")));
        for id in self.told.lock().unwrap().iter() {
            traces.extend(of_pod(daemon::CONTAINERD_SOCKET, self.name, id));
        }
        let bundles = format!("/run/containerd/io.containerd.runtime.v2.task/{}", self.name);
        for entry in fs::read_dir(&bundles).into_iter().flatten() {
            traces.insert(entry.unwrap().path().display().to_string());
        }
        // The directory of a pod whose name is not known, with what containerd's namespace is in it.
        for entry in fs::read_dir("/run/rvm-shim").into_iter().flatten() {
            let path = entry.unwrap().path();
            let shim = fs::read_to_string(path.join("shim")).unwrap_or_default();
            traces.extend((shim.lines().next() == Some(self.name)).then(|| path.display().to_string()));
        }
        // Where `ctr` wants the control groups.
        for entry in fs::read_dir(format!("/sys/fs/cgroup/{}", self.name)).into_iter().flatten() {
            let path = entry.unwrap().path();
            traces.extend(path.is_dir().then(|| path.display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&bundles)).map(str::to_owned));
        traces
    }

    /// Waits until nothing is left.
    #[track_caller]
    pub fn leaves_nothing(&self) {
        let begin = std::time::Instant::now();
        while !self.traces().is_empty() {
            assert!(begin.elapsed() < crate::process::PATIENCE, "left: {:#?}", self.traces());
            crate::process::pause();
        }
    }
}

/// Waits until the shim of `sandbox` says this in containerd's log, and gives its line; all of it where nobody knows where
/// that log is.
#[track_caller]
pub fn logged(sandbox: &str, text: &str) -> String {
    let begin = std::time::Instant::now();
    loop {
        let Some(log) = daemon::log_of_containerd() else { return text.to_owned() };
        let own = format!(" sandbox={sandbox}");
        let mut lines = log.lines().filter(|line| line.contains("runtime=rvm") && line.contains(&own));
        if let Some(line) = lines.clone().find(|line| line.contains(text)) {
            return line.to_owned();
        }
        let seen: Vec<_> = lines.by_ref().collect();
        assert!(begin.elapsed() < crate::process::PATIENCE, "no line of {sandbox} says {text:?}: {seen:#?}");
        crate::process::pause();
    }
}
