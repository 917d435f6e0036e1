//! A container under test: its root file system, its specification, and what it says.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread::Thread;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use oci_spec::runtime::{Process, Spec};
use rvm_agent::container::{Container, Error, Made, Runtime, Stdio};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where this machine has cgroup v2.
pub fn cgroups() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_v2 = |line: &&str| line.split(" - ").nth(1).is_some_and(|fs| fs.starts_with("cgroup2 "));
    let line = table.lines().find(is_v2).expect("cgroup v2 is mounted");
    line.split(' ').nth(4).unwrap().into()
}

/// Where these tests run in a guest, its agent is elsewhere.
const AGENT: &str = "RVM_TEST_AGENT";

pub fn runtime() -> Runtime {
    let agent = std::env::var_os(AGENT).unwrap_or_else(|| env!("CARGO_BIN_EXE_rvm-agent").into());
    Runtime::new(agent, cgroups())
}

/// A name that no other test, and no other run of it, has.
pub fn new_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A root file system and a specification, to be changed before it is run.
pub struct Bundle {
    directory: TempDir,
    pub spec: Value,
}

/// How a process ended, and what it said.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// As a shell tells it.
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What a process said that ended well.
    pub fn said(&self) -> &str {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{self:?}");
        &self.out
    }
}

const COMMANDS: [&str; 26] = [
    "sh", "true", "cat", "echo", "ls", "id", "grep", "stat", "hostname", "sleep", "mount", "umount", "touch",
    "mkdir", "readlink", "head", "tty", "stty", "ps", "env", "pwd", "ln", "rm", "mknod", "kill", "dd",
];

impl Bundle {
    /// A container whose first process is `sh -c script`, with what Docker gives one.
    pub fn script(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Users of the container other than root go through it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("root");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for command in COMMANDS {
            symlink("busybox", root.join("bin").join(command)).unwrap();
        }
        let spec = specification(&root, script);
        Self { directory, spec }
    }

    /// The root file system.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Changes the specification at a JSON pointer; what is missing on the way is made.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.spec;
        for name in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(all) => all.get_mut(name.parse::<usize>().unwrap()).unwrap(),
                at => &mut at[name],
            };
        }
        *at = value;
        self
    }

    /// Adds to a list of the specification.
    pub fn and(mut self, pointer: &str, value: Value) -> Self {
        self.spec.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    pub fn parsed(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    /// Makes the container.
    pub fn create(&self) -> Result<Running, Error> {
        let (stdio, streams) = pipes();
        let Made { what, terminal } = runtime().create(&new_id(), &self.parsed(), stdio)?;
        assert!(terminal.is_none());
        Ok(Running { container: what, streams })
    }

    /// Runs it to its end, and removes it.
    pub fn run(&self) -> Ran {
        let mut running = self.create().unwrap();
        running.container.start().unwrap();
        running.end()
    }

    /// Why it cannot be made.
    pub fn refused(&self) -> Error {
        match self.create() {
            Err(err) => err,
            Ok(running) => {
                running.end_by_force();
                panic!("it was made")
            }
        }
    }
}

/// What Docker would give a container, without the filter.
fn specification(root: &Path, script: &str) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": root},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin", "HOME=/"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "hostname": "test",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/nonexistent"],
            "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/sysrq-trigger", "/nonexistent"],
        },
    })
}

/// What a container's process has, and the test's ends of it.
pub struct Streams {
    pub input: io::PipeWriter,
    pub out: PipeReader,
    pub err: PipeReader,
}

pub fn pipes() -> (Stdio, Streams) {
    let ((stdin, input), (out, stdout), (err, stderr)) =
        (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
    let stdio = Stdio::Descriptors { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() };
    (stdio, Streams { input, out, err })
}

impl Streams {
    /// All that is said until both outputs end.
    fn read(self) -> (String, String) {
        drop(self.input);
        let mut err = self.err;
        let errors = std::thread::spawn(move || io::read_to_string(&mut err).unwrap());
        let out = io::read_to_string(self.out).unwrap();
        (out, errors.join().unwrap())
    }

    /// The next line of standard output.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.out.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn say(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }
}

/// A container that was made.
pub struct Running {
    pub container: Container,
    pub streams: Streams,
}

/// The ends of children that were taken. As in a guest, somebody takes all of them: also of those that nobody knows.
static ENDED: (Mutex<BTreeMap<u32, i32>>, Condvar) = (Mutex::new(BTreeMap::new()), Condvar::new());

fn reap() {
    loop {
        let (pid, status) = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(status) => panic!("{status:?}"),
            // Until a test makes one there are no children.
            Err(Errno::ECHILD) => {
                std::thread::park();
                continue;
            }
            Err(err) => panic!("{err}"),
        };
        ENDED.0.lock().unwrap().insert(pid.as_raw().cast_unsigned(), status);
        ENDED.1.notify_all();
    }
}

/// The end of a child, as a shell tells it.
pub fn status_of(pid: u32) -> i32 {
    static REAPER: OnceLock<Thread> = OnceLock::new();
    REAPER.get_or_init(|| std::thread::spawn(reap).thread().clone()).unpark();
    let mut ended = ENDED.1.wait_while(ENDED.0.lock().unwrap(), |ended| !ended.contains_key(&pid)).unwrap();
    ended.remove(&pid).unwrap()
}

impl Running {
    /// Waits for the end of the first process, and removes the container.
    pub fn end(mut self) -> Ran {
        let (out, err) = self.streams.read();
        let status = status_of(self.container.pid());
        self.container.delete(false).unwrap();
        Ran { status, out, err }
    }

    /// Ends it.
    pub fn end_by_force(mut self) {
        self.container.delete(true).unwrap();
        status_of(self.container.pid());
    }

    /// Runs one more process to its end.
    pub fn execute(&self, process: &Value) -> Ran {
        let process: Process = serde_json::from_value(process.clone()).unwrap();
        let (stdio, streams) = pipes();
        let made = self.container.exec(&process, stdio).unwrap();
        let (out, err) = streams.read();
        Ran { status: status_of(made.what.pid()), out, err }
    }
}

/// A shell's script, as a process of a container.
pub fn shell(script: &str) -> Value {
    json!({"args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]})
}
