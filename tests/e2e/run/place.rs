//! A place of its own for a test of `rvm run`: a runtime directory, a store of images and a working directory, with the
//! means to tell what is left in and outside of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rvm_tests::{artifact, daemon};
use tempfile::TempDir;

use crate::process::{PATIENCE, Ran, Running, run, wait_for_end_of};

/// Images that were pulled once for all tests; each test has a store of its own, of links to these files.
const PULLED: &str = "/var/tmp/rvm-tests";

/// Where commands of one test find nothing of another.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// A place with an empty store of images.
    pub fn empty() -> Self {
        // Short names: the paths of Unix sockets have at most 107 bytes, and an id has 64.
        let directory = tempfile::Builder::new().prefix("rvm").rand_bytes(5).tempdir_in("/var/tmp").unwrap();
        for name in ["run", "data", "work"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// A place whose store has these of the lab's images, and maybe more, under the names that [`image`] gives.
    #[track_caller]
    pub fn with(images: &[&str]) -> Self {
        let place = Self::empty();
        let pulled = Path::new(PULLED);
        fs::create_dir_all(pulled).unwrap();
        let lock = File::create(pulled.join("lock")).unwrap();
        lock.lock().unwrap();
        for image in images {
            let mut pull = rvm(&["pull", "--quiet", &self::image(image)]);
            pull.env("RVM_DATA", pulled.join("data"));
            let ran = run(pull);
            assert_eq!(ran.status, Some(0), "pull {image}: {ran:?}");
        }
        let copied =
            Command::new("cp").arg("-al").args([&pulled.join("data/."), &place.path("data")]).status();
        assert!(copied.unwrap().success());
        place
    }

    /// A file or directory of the place: `work`, and in it what the test makes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    /// `rvm` with these arguments, without input, in `work`.
    pub fn rvm<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = rvm(arguments);
        command.env("RVM_RUNTIME", self.path("run")).env("RVM_DATA", self.path("data"));
        command.current_dir(self.path("work"));
        command
    }

    /// Runs `rvm` with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.rvm(arguments))
    }

    /// What `rvm` says with these arguments, whose end is to be 0, with nothing said on standard error.
    #[track_caller]
    pub fn said(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "rvm {arguments:?}: {ran:?}");
        ran.out
    }

    /// Starts `rvm` with these arguments, to talk with.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.rvm(arguments);
        command.stdin(Stdio::piped());
        Running::start(command)
    }

    /// Has `rvm` refuse with this status and one line of words, these among them.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], status: i32, words: &str) {
        let ran = self.run(arguments);
        println!("{}", ran.error);
        assert_eq!((ran.status, ran.out.as_str()), (Some(status), ""), "rvm {arguments:?}: {ran:?}");
        assert_eq!(ran.error.lines().count(), 1, "rvm {arguments:?}: {ran:?}");
        assert!(ran.error.starts_with("rvm: ") && ran.error.contains(words), "rvm {arguments:?}: {ran:?}");
    }

    /// Processes of this place: supervisors, VMMs, and what else they started.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let runtime = self.text("run");
        let of_place = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == format!("RVM_RUNTIME={runtime}").as_bytes())
        };
        let command = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        };
        pids().filter(of_place).map(command).filter(|(_, line)| !line.is_empty()).collect()
    }

    /// Waits until none of its processes is left.
    #[track_caller]
    pub fn wait_for_ends(&self) {
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            processes.iter().for_each(|(pid, _)| wait_for_end_of(*pid));
        }
    }

    /// Processes of this place, when supervisors have ended that are about to: their last act is to tell the end.
    fn processes_that_stay(&self) -> Vec<(u32, String)> {
        let ends = |(_, line): &(u32, String)| {
            let directory = line.split_once(" supervise ").map(|(_, directory)| Path::new(directory.trim()));
            directory.is_some_and(|directory| !directory.join("record.json").exists())
        };
        let start = Instant::now();
        loop {
            let processes = self.processes();
            if !processes.iter().any(ends) || start.elapsed() > PATIENCE {
                return processes;
            }
            crate::process::pause();
        }
    }

    /// For whoever reads of a test that failed: the containers, how they ended, and what their supervisors said.
    fn tell_what_is_there(&self) {
        println!("{}", run(self.rvm(&["ps", "-a"])).out);
        for file in files_in(&self.path("run")) {
            if ["status.json", "supervisor.log"].iter().any(|name| file.ends_with(name)) {
                let content = fs::read(&file).unwrap_or_default();
                println!("{}: {}", file.display(), String::from_utf8_lossy(&content));
            }
        }
    }

    /// Everything in and around the place that a container can leave: files, processes, mounts.
    pub fn traces(&self) -> BTreeSet<String> {
        let mut traces = BTreeSet::new();
        for part in ["run", "data/containers", "data/tmp", "work"] {
            let files = files_in(&self.path(part)).into_iter().filter(|path| !is_for_all(path));
            traces.extend(files.map(|path| path.display().to_string()));
        }
        let processes = self.processes_that_stay().into_iter();
        traces.extend(processes.map(|(pid, line)| format!("process {pid}: {line}")));
        let place = self.text("");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&place)).map(str::to_owned));
        traces
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_what_is_there();
        }
        // Nobody is left to tell of an error; what remains is the lab's, and ends with it.
        let ids = run(self.rvm(&["ps", "-aq"])).out;
        for id in ids.lines() {
            run(self.rvm(&["rm", "-f", id]));
        }
    }
}

/// The name by which `rvm` finds one of the lab's images.
pub fn image(name: &str) -> String {
    match daemon::registry() {
        Ok(()) => format!("{}/{name}", daemon::REGISTRY),
        // Without the lab there is no registry; the images are the same.
        Err(daemon::Error::NotHere { .. }) => {
            format!("oci:{}/oci:{name}", daemon::images().unwrap().display())
        }
        Err(error) => panic!("{error}"),
    }
}

fn rvm<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(artifact::rvm());
    command.args(arguments).env_remove("RVM_LOG").stdin(Stdio::null());
    command
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// Whether this is there for all sandboxes, and so no trace of one.
fn is_for_all(path: &Path) -> bool {
    ["lock", "sandboxes", "network"].iter().any(|name| path.ends_with(name))
}

/// Everything below a directory.
pub fn files_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_in(&path));
        }
        found.push(path);
    }
    found
}
