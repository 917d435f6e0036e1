//! The sandbox service as containerd calls it (containerd.runtime.sandbox.v1): each request taken apart, given to the
//! [`Shim`], and its answer written. It is served beside the task service, on the same socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox as Service;
use containerd_shim_protos::ttrpc::Result;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use containerd_shim_protos::types::platform::Platform;
use serde_json::json;

use crate::error::ShimError;
use crate::sandbox::{Order, Sandbox, State};
use crate::shim::Shim;
use crate::stats;

/// What CRI calls a sandbox that containers can be put into, and one that they cannot.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// What it runs programs for, in the words of OCI images.
const OS: &str = "linux";
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// The service.
pub struct SandboxService(pub Arc<Shim>);

impl SandboxService {
    /// For the log: what is asked for.
    fn called(&self, call: &str) {
        self.0.log.debug("", format_args!("asked to {call} the sandbox"));
    }
}

#[async_trait]
impl Service for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse> {
        self.called("create");
        let order = Order {
            id: request.sandbox_id,
            bundle: request.bundle_path.into(),
            rootfs: request.rootfs,
            options: request.options.into_option().unwrap_or_default(),
            network: request.netns_path.into(),
            annotations: request.annotations,
        };
        self.0.create_sandbox(order).await?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> Result<StartSandboxResponse> {
        self.called("start");
        let running = self.0.start_sandbox(&request.sandbox_id).await?;
        Ok(StartSandboxResponse {
            pid: running.pid,
            created_at: MessageField::some(running.since.into()),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> Result<PlatformResponse> {
        self.called("tell the platform of");
        self.0.sandbox(&request.sandbox_id)?;
        let platform =
            Platform { os: OS.to_owned(), architecture: ARCHITECTURE.to_owned(), ..Platform::default() };
        Ok(PlatformResponse { platform: MessageField::some(platform), ..PlatformResponse::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Result<StopSandboxResponse> {
        self.called("stop");
        let patience = Some(request.timeout_secs).filter(|seconds| *seconds > 0);
        let patience = patience.map(|seconds| Duration::from_secs(seconds.into()));
        self.0.stop_sandbox(&request.sandbox_id, patience).await?;
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> Result<WaitSandboxResponse> {
        self.called("wait for");
        let exit = self.0.sandbox(&request.sandbox_id)?.ended().await;
        Ok(WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> Result<SandboxStatusResponse> {
        self.called("tell the status of");
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let state = sandbox.state();
        let mut status =
            SandboxStatusResponse { sandbox_id: request.sandbox_id, ..SandboxStatusResponse::default() };
        let (word, pid, since, ended) = match &state {
            State::Created => (NOT_READY, 0, None, None),
            State::Running(running) => (READY, running.pid, Some(running.since), None),
            State::Ended(exit, since) => (NOT_READY, 0, *since, Some(exit.at)),
        };
        status.state = word.to_owned();
        status.pid = pid;
        status.created_at = since.map(SystemTime::into).into();
        status.exited_at = ended.map(SystemTime::into).into();
        if request.verbose {
            status.info = info(&sandbox, &state, pid);
        }
        Ok(status)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Result<PingResponse> {
        self.called("reach");
        self.0.ping_sandbox(&request.sandbox_id).await?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse> {
        self.called("shut down");
        self.0.shut_down_sandbox(&request.sandbox_id).await?;
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> Result<SandboxMetricsResponse> {
        self.called("measure");
        let used = self.0.sandbox_metrics(&request.sandbox_id).await?;
        let data = stats::guest_metrics(&used).map_err(ShimError::host("write the metrics"))?;
        let mut answer = SandboxMetricsResponse::default();
        let metrics = answer.mut_metrics();
        metrics.timestamp = MessageField::some(SystemTime::now().into());
        metrics.id = request.sandbox_id;
        metrics.data = MessageField::some(data);
        Ok(answer)
    }
}

/// What is told of a sandbox beyond its state. CRI takes `info` for JSON and looks at what it knows there.
fn info(sandbox: &Sandbox, state: &State, pid: u32) -> HashMap<String, String> {
    let known = json!({ "pid": pid, "processStatus": state.name() });
    let mut info = HashMap::from([
        ("info".to_owned(), known.to_string()),
        ("bundle".to_owned(), sandbox.bundle.to_string_lossy().into_owned()),
    ]);
    if let Some(network) = sandbox.network() {
        info.insert("network".to_owned(), network.to_string_lossy().into_owned());
    }
    info
}
