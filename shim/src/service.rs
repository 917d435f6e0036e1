//! The task service as containerd calls it: each request taken apart, given to the [`Shim`], and its answer written.

use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::TASK_API_VERSION;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc::Result;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;

use crate::config;
use crate::container::Container;
use crate::error::ShimError;
use crate::process::{Process, State};
use crate::shim::{Order, Shim};
use crate::stats;
use crate::stdio::Paths;

/// The service. Both of its names, version 2 and 3, have the same messages.
pub struct TaskService(pub Arc<Shim>);

impl TaskService {
    /// For the log: what is asked for, of a container's first process or of an exec's.
    fn called(&self, call: impl Display, id: &str, exec: &str) {
        match exec {
            "" => self.0.log.debug(id, format_args!("asked to {call}")),
            exec => self.0.log.debug(id, format_args!("asked to {call}, the process {exec}")),
        }
    }
}

#[async_trait]
impl Task for TaskService {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        self.called("create", &request.id, "");
        if !request.checkpoint.is_empty() {
            return Err(no_checkpoints().into());
        }
        let config = request.options.as_ref().map_or(Ok(None), config::path_in)?;
        let order = Order {
            config,
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs,
            paths: Paths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        let container = self.0.create(order).await?;
        Ok(CreateTaskResponse { pid: container.pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        self.called("start", &request.id, &request.exec_id);
        let pid = self.0.start(&request.id, &request.exec_id).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        self.called("tell the state", &request.id, &request.exec_id);
        let container = self.0.container(&request.id).await?;
        let process = container.process(&request.exec_id)?;
        let mut answer = StateResponse {
            id: request.id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: container.pid,
            status: status(&container, &process).into(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exec_id: request.exec_id,
            ..StateResponse::default()
        };
        if let State::Ended(exit) = process.state() {
            answer.exit_status = exit.status;
            answer.exited_at = MessageField::some(exit.at.into());
        }
        Ok(answer)
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Result<DeleteResponse> {
        self.called("delete", &request.id, &request.exec_id);
        let (pid, exit) = self.0.delete(&request.id, &request.exec_id).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..DeleteResponse::default()
        })
    }

    /// One process of the host stands for all of a container: the VMM. Those of the guest have no number here, and a
    /// number that the guest names may be another process's.
    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Result<PidsResponse> {
        self.called("tell the processes", &request.id, "");
        let container = self.0.container(&request.id).await?;
        let vmm = ProcessInfo { pid: container.pid, ..ProcessInfo::default() };
        Ok(PidsResponse { processes: vec![vmm], ..PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        self.called("pause", &request.id, "");
        self.0.set_paused(&request.id, true).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        self.called("resume", &request.id, "");
        self.0.set_paused(&request.id, false).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Result<Empty> {
        Err(no_checkpoints().into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        let (signal, all) = (request.signal, if request.all { ", to all" } else { "" });
        self.called(format_args!("kill by signal {signal}{all}"), &request.id, &request.exec_id);
        let container = self.0.container(&request.id).await?;
        container.kill(&request.exec_id, request.signal, request.all).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        self.called("add a process", &request.id, &request.exec_id);
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let spec = request.spec.into_option().unwrap_or_default().value;
        self.0.exec(&request.id, &request.exec_id, paths, spec).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        self.called("resize the terminal", &request.id, &request.exec_id);
        // A terminal has 16 bits for each.
        let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let container = self.0.container(&request.id).await?;
        container.resize(&request.exec_id, cells(request.width), cells(request.height)).await?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        self.called("close standard input", &request.id, &request.exec_id);
        let process = self.0.container(&request.id).await?.process(&request.exec_id)?;
        if request.stdin {
            process.close_input();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        self.called("change limits", &request.id, "");
        // As with runc, others mean nothing to who changes limits.
        if let Some(name) = request.annotations.keys().find(|name| name.starts_with(config::OWN_ANNOTATIONS))
        {
            let reason =
                "it sizes the machine, which stays as it was booted; limits of containers alone can change";
            return Err(ShimError::Unsupported {
                what: format!("the annotation {name} in an update"),
                reason,
            }
            .into());
        }
        let resources = request.resources.into_option().unwrap_or_default().value;
        self.0.update(&request.id, resources).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        self.called("wait", &request.id, &request.exec_id);
        let process = self.0.container(&request.id).await?.process(&request.exec_id)?;
        let exit = process.ended().await;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        self.called("measure", &request.id, "");
        let stats = self.0.container(&request.id).await?.stats().await?;
        let metrics = stats::metrics(&stats).map_err(ShimError::host("write the metrics"))?;
        Ok(StatsResponse { stats: MessageField::some(metrics), ..StatsResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Result<ConnectResponse> {
        self.called("connect", &request.id, "");
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.0.pid_of(&request.id).await?,
            version: TASK_API_VERSION.to_string(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Result<Empty> {
        self.called("shut down", "", "");
        self.0.shut_down();
        Ok(Empty::default())
    }
}

fn no_checkpoints() -> ShimError {
    let reason = "the state of a virtual machine is not saved yet";
    ShimError::Unsupported { what: "checkpoints".to_owned(), reason }
}

fn status(container: &Container, process: &Process) -> Status {
    match process.state() {
        State::Created => Status::CREATED,
        State::Running if container.is_paused() => Status::PAUSED,
        State::Running => Status::RUNNING,
        State::Ended(_) => Status::STOPPED,
    }
}
