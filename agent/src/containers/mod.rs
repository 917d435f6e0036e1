//! Containers, as the host asks for them: the `Containers` service of `agent.proto`.
//!
//! What a container is and does is in the library's `container`; here are names, waiting, streams and events. Calls
//! of the runtime are short and run on the one thread, which also reaps: no end of a process comes between
//! its birth and the question for it.

mod events;
mod life;
mod processes;
mod table;
mod translate;
mod user;

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use crate::container::{self, Runtime};
use rvm_agent_proto::{
    CreateRequest, CreateResponse, DeleteRequest, DeleteResponse, Event, EventsRequest, ExecRequest,
    ExecResponse, PauseRequest, PauseResponse, ProcessesRequest, ProcessesResponse, ResizeRequest,
    ResizeResponse, ResumeRequest, ResumeResponse, SignalRequest, SignalResponse, StartRequest,
    StartResponse, StatsRequest, StatsResponse, UpdateRequest, UpdateResponse, WaitRequest, WaitResponse,
    containers_server,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::console::say;
use crate::containers::events::Events;
use crate::containers::table::Table;
use crate::containers::translate::refused;
use crate::reaper::Reaper;
use crate::streams::Streams;

/// The service; clones are one.
#[derive(Clone, Debug)]
pub struct Containers(Arc<State>);

#[derive(Debug)]
struct State {
    runtime: Runtime,
    reaper: Reaper,
    streams: Streams,
    table: Table,
    events: Events,
}

impl Containers {
    /// The service of a guest.
    pub fn new(runtime: Runtime, reaper: Reaper, streams: Streams) -> Self {
        let (table, events) = (Table::default(), Events::default());
        Self(Arc::new(State { runtime, reaper, streams, table, events }))
    }

    /// The root of a container's file system.
    pub fn open_root(&self, id: &str) -> Result<OwnedFd, Status> {
        self.0.table.with(id, |entry| Ok(entry.open_root()?))
    }

    /// Ends every container, and forgets it.
    pub fn end_all(&self) {
        for (id, mut entry) in self.0.table.take_all() {
            if let Err(err) = entry.container.delete(true) {
                say(&format!("cannot end the container {id}: {err}"));
            }
        }
    }
}

#[tonic::async_trait]
impl containers_server::Containers for Containers {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        let pid = life::create(&self.0, request.into_inner()).await?;
        Ok(Response::new(CreateResponse { pid }))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let id = request.into_inner().container;
        self.0.table.with(&id, |entry| entry.container.start().map_err(refused))?;
        Ok(Response::new(StartResponse {}))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        let pid = life::exec(&self.0, request.into_inner()).await?;
        Ok(Response::new(ExecResponse { pid }))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        let request = request.into_inner();
        let signal = translate::signal(request.signal)?;
        self.0.table.with(&request.container, |entry| {
            match (request.all, request.exec.as_str()) {
                (true, _) => entry.container.signal_all(signal),
                (false, "") => entry.container.signal(signal),
                (false, exec) => entry.execution(exec)?.process.signal(signal),
            }
            .map_err(refused)
        })?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let WaitRequest { container, exec } = request.into_inner();
        let mut ending = self.0.table.with(&container, |entry| entry.ending(&exec))?;
        let exit = ending.wait().await;
        Ok(Response::new(translate::exit(exit, self.0.table.ran_out_of_memory(&container))))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { container, exec, force } = request.into_inner();
        match exec.as_str() {
            "" => self.0.table.delete(&container, force)?,
            exec => self.0.table.with(&container, |entry| entry.forget(exec, force))?,
        }
        Ok(Response::new(DeleteResponse {}))
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        self.0
            .table
            .with(&request.into_inner().container, |entry| entry.container.pause().map_err(refused))?;
        Ok(Response::new(PauseResponse {}))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        self.0
            .table
            .with(&request.into_inner().container, |entry| entry.container.resume().map_err(refused))?;
        Ok(Response::new(ResumeResponse {}))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let UpdateRequest { container, resources } = request.into_inner();
        let resources = translate::json("resources", &resources)?;
        self.0.table.with(&container, |entry| entry.container.update(&resources).map_err(refused))?;
        Ok(Response::new(UpdateResponse {}))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let stats = self
            .0
            .table
            .with(&request.into_inner().container, |entry| entry.container.stats().map_err(refused))?;
        Ok(Response::new(translate::stats(&stats)))
    }

    async fn processes(
        &self,
        request: Request<ProcessesRequest>,
    ) -> Result<Response<ProcessesResponse>, Status> {
        let processes = self.0.table.with(&request.into_inner().container, |entry| {
            let pids = entry.container.processes().map_err(refused)?;
            Ok(processes::all(&pids, &entry.execution_pids()))
        })?;
        Ok(Response::new(ProcessesResponse { processes }))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Result<Response<ResizeResponse>, Status> {
        let ResizeRequest { container, exec, columns, rows } = request.into_inner();
        let size = translate::window(columns, rows)?;
        self.0.table.with(&container, |entry| {
            let terminal = entry.terminal(&exec)?;
            container::resize(terminal, size).map_err(refused)
        })?;
        Ok(Response::new(ResizeResponse {}))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(Box::pin(self.0.events.subscribe())))
    }
}
