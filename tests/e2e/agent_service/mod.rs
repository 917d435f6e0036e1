//! The agent as a service (docs/agent.md), asked by the host's library through the VMM's socket.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod archives;
mod containers;
mod hostile;
mod sandbox;
mod storage;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{
    ConfigureRequest, CreateRequest, Disk, MountRequest, Overlay, StartRequest, Streams, Tmpfs, WaitRequest,
    WaitResponse,
};
use rvm_config::VmConfig;
use rvm_sandbox::agent::Agent;
use rvm_sandbox::machine::Machine;
use rvm_tests::artifact;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tonic::{Code, Response, Status};

/// More than any step takes, in the lab too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that serves, with a disk that has a root file system; gone when dropped.
struct Guest {
    agent: Agent,
    machine: Machine,
    _directory: TempDir,
}

/// Runs a test with a guest, to its end or to the end of patience.
fn with_guest(test: impl AsyncFnOnce(Guest)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let guest = Guest::boot().await;
        test(guest).await;
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await }).unwrap();
}

impl Guest {
    async fn boot() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("root.img");
        make_root_disk(directory.path(), &disk);
        let socket = directory.path().join("vsock");
        let config: VmConfig = serde_json::from_value(json!({
            "kernel": { "image": artifact::vmlinux(), "initrd": artifact::agent_initramfs() },
            "memory": "128M",
            "disks": [{ "path": disk, "read_only": true, "id": "root" }],
            "vsock": { "socket": socket },
        }))
        .unwrap();
        let machine = Machine::start(&artifact::rvm(), &config, &[]).unwrap();
        machine.ready().await.unwrap();
        let (agent, _) = Agent::connect(&socket).await.unwrap();
        Self { agent, machine, _directory: directory }
    }

    async fn mount(&self, target: &str, source: Source, options: &[&str]) -> Result<(), Status> {
        let options = options.iter().map(ToString::to_string).collect();
        let request = MountRequest { target: target.into(), source: Some(source), options };
        self.agent.storage().mount(request).await.map(|_| ())
    }

    /// Mounts the disk with a writable layer over it, where [`spec`] has the root.
    async fn mount_root(&self) {
        // Makes the files with names, one of which every container here has.
        self.agent.sandbox().configure(ConfigureRequest::default()).await.unwrap();
        let disk = Disk { id: "root".into(), partition: 0, fs_type: "ext4".into(), ..Disk::default() };
        self.mount("/run/rvm/layer", Source::Disk(disk), &["ro"]).await.unwrap();
        self.mount("/run/rvm/upper", Source::Tmpfs(Tmpfs::default()), &[]).await.unwrap();
        let overlay = Overlay { lower: vec!["/run/rvm/layer".into()], writable: "/run/rvm/upper".into() };
        self.mount("/run/rvm/root", Source::Overlay(overlay), &[]).await.unwrap();
    }

    /// Makes a container and starts it.
    async fn start(&self, id: &str, spec: &Value, streams: Streams) {
        let spec = serde_json::to_vec(spec).unwrap();
        let request = CreateRequest { id: id.into(), spec, streams: Some(streams), user: None };
        self.agent.containers().create(request).await.unwrap();
        self.agent.containers().start(StartRequest { container: id.into() }).await.unwrap();
    }

    /// Runs a shell command in a container of its own, and gives its output and its end.
    async fn run(&self, id: &str, script: &str) -> (String, WaitResponse) {
        let (token, mut stream) = self.agent.stream().await.unwrap();
        self.start(id, &spec(script), Streams { stdout: token, ..Streams::default() }).await;
        let mut output = Vec::new();
        stream.read_to_end(&mut output).await.unwrap();
        (String::from_utf8_lossy(&output).into_owned(), self.wait(id, "").await)
    }

    async fn wait(&self, container: &str, exec: &str) -> WaitResponse {
        let request = WaitRequest { container: container.into(), exec: exec.into() };
        self.agent.containers().wait(request).await.unwrap().into_inner()
    }
}

/// A disk image with busybox, and users.
fn make_root_disk(directory: &Path, image: &Path) {
    let root = directory.join("root");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["cat", "dd", "echo", "head", "hostname", "id", "ls", "seq", "sh", "sleep", "stty", "tail"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:4:web\n").unwrap();
    fs::File::create(image).unwrap().set_len(32 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&root).arg(image).status().unwrap();
    assert!(made.success());
}

/// The specification of a container that runs a shell command.
fn spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "/run/rvm/root" },
        "process": process(script),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/etc/resolv.conf", "type": "bind", "source": "/run/rvm/etc/resolv.conf",
              "options": ["bind", "ro"] },
        ],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "cgroup" },
        ] },
    })
}

/// `process` of the specification, for a shell command.
fn process(script: &str) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}

/// The code of a call that has to be refused.
fn refused<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// All that comes on a stream.
async fn read_all(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}
