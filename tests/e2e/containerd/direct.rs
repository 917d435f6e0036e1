//! A shim without containerd's part: started as containerd starts one, and spoken to at its socket. So calls come in
//! any order, and answers are seen as they are.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use containerd_shim_protos::TaskClient;
use containerd_shim_protos::api::{CreateTaskRequest, StartRequest, UpdateTaskRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, PlatformResponse, SandboxMetricsRequest,
    SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::context::{Context, with_duration};
use containerd_shim_protos::ttrpc::{self, Client, Code};
use rvm_tests::{artifact, daemon};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{PATIENCE, Ran, run};

/// What a call answers.
pub type Answer<T> = Result<T, Code>;

/// The shim of one pod.
pub struct Shim {
    namespace: &'static str,
    pub id: &'static str,
    /// The pod's bundle.
    pub bundle: TempDir,
    /// Where it listens.
    pub address: String,
    sandbox: SandboxClient,
    pub tasks: TaskClient,
}

/// How long a call may take.
pub fn patience() -> Context {
    with_duration(PATIENCE)
}

/// The code of a refusal.
#[track_caller]
fn answer<T>(attempt: &str, result: ttrpc::Result<T>) -> Answer<T> {
    result.map_err(|error| match error {
        ttrpc::Error::RpcStatus(status) => {
            assert!(!status.message.is_empty(), "{attempt}: refused without a reason");
            // For whoever reads of a test that fails.
            println!("{attempt}: {}", status.message);
            status.code()
        }
        other => panic!("{attempt}: {other}"),
    })
}

impl Shim {
    /// Starts a shim for the pod `id` in containerd's `namespace`, where nobody else has one.
    pub fn start(namespace: &'static str, id: &'static str) -> Self {
        let bundle = tempfile::tempdir_in("/run").unwrap();
        let ran = run(program(namespace, id, bundle.path(), "start"));
        assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
        let said: Value = serde_json::from_str(&ran.out).unwrap();
        let address = said["address"].as_str().unwrap().to_owned();
        assert_eq!(ran.out, format!(r#"{{"version":2,"address":"{address}","protocol":"ttrpc"}}"#));
        Self::at(address, namespace, id, bundle)
    }

    /// Starts one as containerd does from 2.3 on: with parameters on standard input, and a message as its answer.
    pub fn start_with(
        params: &BootstrapParams,
        namespace: &'static str,
        id: &'static str,
        bundle: TempDir,
    ) -> Self {
        let said = bundle.path().join("parameters");
        fs::write(&said, params.write_to_bytes().unwrap()).unwrap();
        let mut command = program(namespace, id, bundle.path(), "start");
        command.env_remove("TTRPC_ADDRESS").stdin(File::open(said).unwrap());
        let ran = run(command);
        assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
        let answer = BootstrapResult::parse_from_bytes(ran.out.as_bytes()).unwrap();
        Self::at(answer.address, namespace, id, bundle)
    }

    fn at(address: String, namespace: &'static str, id: &'static str, bundle: TempDir) -> Self {
        let client = Client::connect(&address).unwrap();
        let (sandbox, tasks) = (SandboxClient::new(client.clone()), TaskClient::new(client));
        Self { namespace, id, bundle, address, sandbox, tasks }
    }

    /// Another connection to the same shim, for a call that does not come back soon.
    pub fn another(&self) -> Client {
        Client::connect(&self.address).unwrap()
    }

    /// Runs the shim's `delete` for the pod.
    pub fn delete(&self) -> Ran {
        run(program(self.namespace, self.id, self.bundle.path(), "delete"))
    }

    /// What a CreateSandbox of this pod says at least.
    pub fn order(&self) -> CreateSandboxRequest {
        CreateSandboxRequest {
            sandbox_id: self.id.to_owned(),
            bundle_path: self.bundle.path().to_str().unwrap().to_owned(),
            ..CreateSandboxRequest::default()
        }
    }

    pub fn create(&self, order: &CreateSandboxRequest) -> Answer<()> {
        answer("create", self.sandbox.create_sandbox(patience(), order)).map(drop)
    }

    pub fn begin(&self) -> Answer<StartSandboxResponse> {
        let request = StartSandboxRequest { sandbox_id: self.id.to_owned(), ..Default::default() };
        answer("start", self.sandbox.start_sandbox(patience(), &request))
    }

    pub fn status(&self) -> Answer<SandboxStatusResponse> {
        let request =
            SandboxStatusRequest { sandbox_id: self.id.to_owned(), verbose: true, ..Default::default() };
        answer("status", self.sandbox.sandbox_status(patience(), &request))
    }

    pub fn platform(&self) -> Answer<PlatformResponse> {
        let request = PlatformRequest { sandbox_id: self.id.to_owned(), ..Default::default() };
        answer("platform", self.sandbox.platform(patience(), &request))
    }

    pub fn ping(&self) -> Answer<()> {
        let request = PingRequest { sandbox_id: self.id.to_owned(), ..Default::default() };
        answer("ping", self.sandbox.ping_sandbox(patience(), &request)).map(drop)
    }

    pub fn metrics(&self) -> Answer<SandboxMetricsResponse> {
        let request = SandboxMetricsRequest { sandbox_id: self.id.to_owned(), ..Default::default() };
        answer("metrics", self.sandbox.sandbox_metrics(patience(), &request))
    }

    pub fn wait(&self) -> Answer<WaitSandboxResponse> {
        wait(&self.sandbox, self.id)
    }

    pub fn stop(&self) -> Answer<()> {
        let request =
            StopSandboxRequest { sandbox_id: self.id.to_owned(), timeout_secs: 20, ..Default::default() };
        answer("stop", self.sandbox.stop_sandbox(patience(), &request)).map(drop)
    }

    pub fn shut_down(&self) -> Answer<()> {
        let request = ShutdownSandboxRequest { sandbox_id: self.id.to_owned(), ..Default::default() };
        answer("shutdown", self.sandbox.shutdown_sandbox(patience(), &request)).map(drop)
    }

    /// Makes a container and starts it.
    #[track_caller]
    pub fn run(&self, container: &Container) {
        assert_eq!(self.create_container(container), Ok(()));
        let request = StartRequest { id: container.id.to_owned(), ..StartRequest::default() };
        assert!(answer("start a container", self.tasks.start(patience(), &request)).is_ok());
    }

    /// Changes no limit of a container, with this annotation.
    pub fn update(&self, container: &Container, annotation: &str) -> Answer<()> {
        let resources = Any { value: b"{}".to_vec(), ..Any::default() };
        let request = UpdateTaskRequest {
            id: container.id.to_owned(),
            resources: MessageField::some(resources),
            annotations: [(annotation.to_owned(), "1G".to_owned())].into(),
            ..UpdateTaskRequest::default()
        };
        answer("update a container", self.tasks.update(patience(), &request)).map(drop)
    }

    /// Makes a container.
    pub fn create_container(&self, container: &Container) -> Answer<()> {
        let request = CreateTaskRequest {
            id: container.id.to_owned(),
            bundle: container.bundle.path().to_str().unwrap().to_owned(),
            stdout: format!("file://{}", container.output().display()),
            ..CreateTaskRequest::default()
        };
        answer("create a container", self.tasks.create(patience(), &request)).map(drop)
    }
}

/// Waits for the end of a sandbox.
pub fn wait(client: &SandboxClient, id: &str) -> Answer<WaitSandboxResponse> {
    let request = WaitSandboxRequest { sandbox_id: id.to_owned(), ..WaitSandboxRequest::default() };
    answer("wait", client.wait_sandbox(with_duration(PATIENCE + Duration::from_secs(60)), &request))
}

fn program(namespace: &str, id: &str, bundle: &Path, action: &str) -> Command {
    let mut command = Command::new(artifact::directory().join("containerd-shim-rvm-v2"));
    command.args(["-namespace", namespace, "-id", id, "-address", daemon::CONTAINERD_SOCKET, action]);
    command.env("TTRPC_ADDRESS", format!("{}.ttrpc", daemon::CONTAINERD_SOCKET));
    command.current_dir(bundle).stdin(Stdio::null());
    command
}

/// A container of a busybox, as containerd would leave it to the shim.
pub struct Container {
    id: &'static str,
    /// Its bundle.
    pub bundle: TempDir,
}

impl Container {
    /// One that runs a script. It is in the pod's namespaces where `shared` is the pod's process.
    pub fn new(id: &'static str, script: &str, shared: Option<u32>) -> Self {
        let bundle = tempfile::tempdir_in("/run").unwrap();
        let bin = bundle.path().join("rootfs/bin");
        for directory in ["bin", "dev", "proc", "etc"] {
            fs::create_dir_all(bundle.path().join("rootfs").join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "hostname", "ping", "ps"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let namespace = |(kind, name): (&str, &str)| match shared {
            Some(pid) => json!({ "type": kind, "path": format!("/proc/{pid}/ns/{name}") }),
            None => json!({ "type": kind }),
        };
        let mut namespaces: Vec<Value> =
            [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")].map(namespace).into();
        namespaces.push(json!({ "type": "mount" }));
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "process": {
                "args": ["/bin/sh", "-c", script],
                "cwd": "/",
                "user": { "uid": 0, "gid": 0 },
                "env": ["PATH=/bin"],
                "capabilities": { "bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"] },
            },
            "mounts": [
                { "type": "proc", "source": "proc", "destination": "/proc" },
                { "type": "tmpfs", "source": "tmpfs", "destination": "/dev" },
            ],
            "linux": { "namespaces": namespaces },
        });
        fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
        Self { id, bundle }
    }

    fn output(&self) -> std::path::PathBuf {
        self.bundle.path().join("output")
    }

    /// What it wrote.
    pub fn said(&self) -> String {
        fs::read_to_string(self.output()).unwrap()
    }
}
