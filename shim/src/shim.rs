//! The life of a pod and its containers: what each call of the task service does, in terms of the machine, the agent,
//! the mounts and the streams.
//!
//! The first container boots the machine; the last one that is deleted ends it. Where containerd has a sandbox made, that
//! does both ([`crate::sandbox`]). All of it happens under one lock, as does everything that makes or removes a container.

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rvm_agent_proto::event::What;
use rvm_agent_proto::{EventsRequest, PauseRequest, ResumeRequest};
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::machine::{Machine, MachineError};
use tokio::sync::Notify;

use crate::container::{Container, FORGET_PATIENCE, answer, attend, locked};
use crate::error::{ShimError, chain};
use crate::log::Log;
use crate::place::{Held, Place};
use crate::pod::{Pod, SHUTDOWN_PATIENCE};
use crate::process::{Exit, Process, State};
use crate::sandbox::{self, Sandbox};
use crate::spec::hosts;
use crate::stdio::Paths;
use crate::streaming::Streams;
use crate::tell::Teller;

mod create;

pub use create::Order;

type Containers = HashMap<String, Arc<Container>>;

/// The shim of one pod.
pub struct Shim {
    pub(crate) place: Place,
    pub(crate) own: Own,
    teller: Teller,
    pub(crate) log: Log,
    /// The machine, while there are containers, or a sandbox that runs; with the right to the place.
    pub(crate) pod: tokio::sync::Mutex<Option<(Pod, Held)>>,
    /// Where containerd had the pod made before any container. It stays until the shim ends.
    pub(crate) sandbox: Mutex<Option<Arc<Sandbox>>>,
    containers: Arc<Mutex<Containers>>,
    /// How many containers were made: each has a number of its own in the place.
    made: AtomicU32,
    /// Streams of processes at the shim's own socket.
    pub streams: Arc<Streams>,
    /// The shim is to end.
    pub(crate) over: Notify,
}

/// Which shim it is.
pub struct Own {
    /// containerd's namespace.
    pub namespace: String,
    /// The pod's name.
    pub id: String,
    /// Where the shim listens.
    pub socket: PathBuf,
    /// The configuration of a sandbox, where it is not the host's.
    pub config: Option<PathBuf>,
}

impl Shim {
    /// The shim `own` of the pod that is at `place`.
    pub fn new(place: Place, own: Own, teller: Teller, log: Log) -> Self {
        Self {
            place,
            streams: Arc::new(Streams::new(own.socket.clone())),
            own,
            teller,
            log,
            pod: tokio::sync::Mutex::default(),
            sandbox: Mutex::default(),
            containers: Arc::default(),
            made: AtomicU32::new(0),
            over: Notify::new(),
        }
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        locked(&self.containers)
    }

    /// Every container, in no order.
    pub fn all_containers(&self) -> Vec<Arc<Container>> {
        self.containers().values().cloned().collect()
    }

    /// The process on the host of the container or the sandbox of this name: 0 of a sandbox that does not run.
    pub async fn pid_of(&self, id: &str) -> Result<u32, ShimError> {
        match self.sandbox(id).map(|sandbox| sandbox.state()) {
            Ok(sandbox::State::Running(running)) => Ok(running.pid),
            Ok(_) => Ok(0),
            Err(_) => Ok(self.container(id).await?.pid),
        }
    }

    /// The container of this name; one that is being made is waited for. A client asks for it as soon as its FIFOs
    /// are open, where its input is short, to say that this has ended.
    pub async fn container(&self, id: &str) -> Result<Arc<Container>, ShimError> {
        let known = || self.containers().get(id).cloned();
        if let Some(container) = known() {
            return Ok(container);
        }
        let _nothing_is_made = self.pod.lock().await;
        known().ok_or_else(|| ShimError::no_container(id))
    }

    /// Starts a container's first process, or one of an exec.
    pub async fn start(&self, id: &str, exec: &str) -> Result<u32, ShimError> {
        let container = self.container(id).await?;
        let process = container.process(exec)?;
        let telling = process.telling.lock().await;
        process.require(State::Created, "start")?;
        if !exec.is_empty() {
            container.start_exec(&process, &self.log).await?;
        } else if let Err(error) = container.start_first().await {
            // Its end is told like any other.
            drop(telling);
            container.end_first().await;
            return Err(error);
        }
        process.reached(State::Running);
        self.log.say(process.level(), id, format_args!("{} was started", process.title()));
        self.teller.started(&process, container.pid).told().await;
        drop(telling);
        if exec.is_empty() {
            container.run_poststart(&self.log).await;
        } else {
            tokio::spawn(attend(container.clone(), process, self.teller.clone(), self.log.clone()));
        }
        Ok(container.pid)
    }

    /// Adds a process that [`Shim::start`] makes.
    pub async fn exec(&self, id: &str, exec: &str, paths: Paths, spec: Vec<u8>) -> Result<(), ShimError> {
        let container = self.container(id).await?;
        container.init.require(State::Running, "run a process in")?;
        let process = Arc::new(Process::new(id, exec, paths, hosts::process(spec)));
        {
            let mut execs = locked(&container.execs);
            if execs.contains_key(exec) {
                return Err(ShimError::Exists { what: "process", id: exec.to_owned() });
            }
            execs.insert(exec.to_owned(), process.clone());
        }
        self.teller.exec_added(&process).told().await;
        Ok(())
    }

    /// Forgets a process that has ended, or was never started; with the last container's first, the machine ends, where
    /// it is not a sandbox's.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<(u32, Exit), ShimError> {
        let container = self.container(id).await?;
        let process = container.process(exec)?;
        if !process.close_streams().await? {
            self.log.warn(id, "output that nobody read is lost");
        }
        if !exec.is_empty() {
            locked(&container.execs).remove(exec);
            container.forget(exec).await;
            return Ok((container.pid, process.exit_or_killed()));
        }
        let mut pod = self.pod.lock().await;
        container.forget("").await;
        if let Some((pod, _)) = &*pod {
            container.unmount_images(&pod.disks, &self.log).await;
        }
        let before = self.cpu_sets();
        self.containers().remove(id);
        if self.containers().is_empty()
            && self.own_sandbox().is_none()
            && let Some((pod, _held)) = pod.take()
        {
            if let Some(reason) = pod.stop(SHUTDOWN_PATIENCE).await {
                self.log.warn(id, &format!("the guest did not write all of its data: {reason}"));
            }
            container.unmount(&self.log);
            self.remove_place();
        } else {
            container.unmount(&self.log);
            if let Some((pod, _)) = &*pod {
                self.confine_to_rest(pod, &before);
            }
        }
        // What was never started has been killed now. A guest that does not say so is not waited for.
        let exit = tokio::time::timeout(FORGET_PATIENCE, process.ended()).await;
        let exit = exit.unwrap_or_else(|_| process.exit_or_killed());
        drop(pod);
        container.execs_ended().await;
        container.run_poststop(&self.log).await;
        self.log.info(id, "the container was deleted");
        self.teller.deleted(&process, container.pid, exit).told().await;
        Ok((container.pid, exit))
    }

    /// The pod's sandbox, if containerd had it made.
    pub(crate) fn own_sandbox(&self) -> Option<Arc<Sandbox>> {
        locked(&self.sandbox).clone()
    }

    pub(crate) fn remove_place(&self) {
        if let Err(error) = self.place.remove() {
            self.log.warn("", &chain(&error));
        }
    }

    /// Freezes a container, or lets it go on.
    pub async fn set_paused(&self, id: &str, paused: bool) -> Result<(), ShimError> {
        let container = self.container(id).await?;
        let name = id.to_owned();
        let mut containers = container.agent.containers();
        if paused {
            answer("pause the container", containers.pause(PauseRequest { container: name })).await?;
        } else {
            answer("resume the container", containers.resume(ResumeRequest { container: name })).await?;
        }
        container.paused.store(paused, Ordering::Relaxed);
        self.teller.paused(id, paused).told().await;
        Ok(())
    }

    /// The shim ends, if it has nothing left to do. A sandbox is shut down by a call of its own.
    pub fn shut_down(&self) {
        if self.containers().is_empty() && self.own_sandbox().is_none() {
            self.over.notify_one();
        }
    }

    /// Waits until the shim is to end.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// Waits until containerd has heard of everything.
    pub async fn everything_told(&self) {
        self.teller.all().told().await;
    }
}

/// How long after a connection to the agent broke the end of its machine may take to be known, on a busy host. A guest can
/// close the connection and live on: it gains nothing by that.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Why a call to the agent in `machine` failed: that the machine ended, where it did. A connection that breaks says nothing.
pub async fn or_its_end(machine: &Machine, error: ShimError) -> ShimError {
    let ShimError::Agent(AgentError::Refused { status, .. }) = &error else { return error };
    // What the agent answers comes without a source, which is how the connection broke; where it was broken already, tonic
    // refuses the call by a code that the agent does not use.
    if status.source().is_none() && status.code() != tonic::Code::Unknown {
        return error;
    }
    match tokio::time::timeout(END_PATIENCE, machine.ended()).await {
        Ok(end) => MachineError::Ended(Box::new(end)).into(),
        Err(_) => error,
    }
}

/// Tells of processes that were killed because their container's memory was used up, as long as the guest lives. It may
/// name anything; what is told is of containers that are there, and so comes before their deletion is told.
async fn watch_memory(agent: Agent, containers: Arc<Mutex<Containers>>, teller: Teller) {
    let Ok(events) = agent.containers().events(EventsRequest {}).await else { return };
    let mut events = events.into_inner();
    while let Ok(Some(event)) = events.message().await {
        if let Some(What::OutOfMemory(_)) = event.what {
            let told = {
                let containers = locked(&containers);
                containers.get(&event.container).map(|container| teller.out_of_memory(container.id()))
            };
            if let Some(told) = told {
                told.told().await;
            }
        }
    }
}
