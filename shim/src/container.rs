//! A container of the pod, and what can be done to it while it is there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rvm_agent_proto::{
    DeleteRequest, ExecRequest, ResizeRequest, SignalRequest, StartRequest, StatsRequest, StatsResponse,
    UpdateRequest, WaitRequest,
};
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::machine::Machine;
use rvm_sandbox::streams;

use crate::cpusets::CpuSets;
use crate::disks::{Disks, Mounted};
use crate::error::{ShimError, chain};
use crate::hooks::{Hooks, Moment, Subject};
use crate::log::Log;
use crate::logger;
use crate::mounts::Files;
use crate::network::Network;
use crate::process::{Exit, KILLED, Process, State};
use crate::streaming::Streams;
use crate::tell::Teller;

/// How long the guest may take to forget a container, and to tell that it is over.
pub const FORGET_PATIENCE: Duration = Duration::from_secs(5);

/// A container.
pub struct Container {
    /// Its bundle.
    pub bundle: PathBuf,
    /// What is the host's process of it: the VMM.
    pub pid: u32,
    /// Its first process.
    pub init: Arc<Process>,
    /// Those of execs.
    pub(crate) execs: Mutex<HashMap<String, Arc<Process>>>,
    pub(crate) paused: AtomicBool,
    pub(crate) files: Files,
    /// Its root file system, if that is of images.
    pub(crate) mounted: Option<Mounted>,
    pub(crate) machine: Machine,
    pub(crate) agent: Agent,
    pub(crate) network: Arc<Network>,
    pub(crate) streams: Arc<Streams>,
    /// containerd's, which it is in.
    pub(crate) namespace: String,
    pub(crate) resolv_conf: Option<PathBuf>,
    /// What it may use of the host.
    pub(crate) cpu_sets: Mutex<CpuSets>,
    pub(crate) hooks: Hooks,
}

impl Container {
    /// The process of this exec; the first one has no name.
    pub fn process(&self, exec: &str) -> Result<Arc<Process>, ShimError> {
        if exec.is_empty() {
            return Ok(self.init.clone());
        }
        let process = locked(&self.execs).get(exec).cloned();
        process.ok_or_else(|| ShimError::NotFound { what: "process", id: exec.to_owned() })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.init.container
    }

    /// Has the guest unmount a root file system of images, and gives them back: what was written is in them then.
    pub async fn unmount_images(&self, disks: &Disks, log: &Log) {
        if let Some(mounted) = &self.mounted
            && let Err(error) = disks.unmount(mounted, &self.machine, &self.agent).await
        {
            log.warn(self.id(), &format!("what was written last may be lost: {}", chain(&error)));
        }
    }

    /// Unmounts its files on the host.
    pub fn unmount(&self, log: &Log) {
        if let Err(error) = self.files.unmount() {
            log.warn(self.id(), &chain(&error));
        }
    }

    /// Runs hooks whose failure stops nothing.
    pub async fn run_hooks(&self, moment: Moment, log: &Log) {
        let subject = Subject { id: self.id(), pid: self.pid, bundle: &self.bundle };
        if let Err(error) = self.hooks.run(moment, subject).await {
            log.warn(self.id(), &chain(&error));
        }
    }

    /// Whether it is frozen.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Starts the first process.
    pub async fn start_first(&self) -> Result<(), ShimError> {
        self.network.ready_for(self.resolv_conf.as_deref()).await?;
        let request = StartRequest { container: self.id().to_owned() };
        let started = self.agent.containers().start(request).await;
        started.map_err(AgentError::refused("start the container"))?;
        Ok(())
    }

    /// Ends the first process, which could not be started, and waits until that is known: containerd's clients remove a
    /// task that has ended, and `ctr` of containerd 1.7 no other.
    pub async fn end_first(&self) {
        // It may have ended already.
        self.kill("", libc::SIGKILL.unsigned_abs(), false).await.ok();
        tokio::time::timeout(FORGET_PATIENCE, self.init.ended()).await.ok();
    }

    /// Starts the process of an exec.
    pub async fn start_exec(&self, process: &Process) -> Result<(), ShimError> {
        let subject = logger::Subject { namespace: &self.namespace, id: process.id() };
        let opened = process.paths.open(&self.streams, subject).await?;
        let (tokens, stdio) = streams::open(&self.agent, process.paths.wanted(process.size())).await?;
        let request = ExecRequest {
            container: process.container.clone(),
            exec: process.exec.clone(),
            process: process.spec.clone(),
            streams: Some(tokens),
            user: None,
        };
        let started = self.agent.containers().exec(request).await;
        started.map_err(AgentError::refused("start the process"))?;
        process.set_carried(opened.carry(stdio));
        Ok(())
    }

    /// Sends a signal to a process, or to all.
    pub async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<(), ShimError> {
        let process = self.process(exec)?;
        match process.state() {
            State::Ended(_) => return Err(ShimError::Ended(process.id().to_owned())),
            State::Created if !exec.is_empty() => process.require(State::Running, "send a signal to")?,
            State::Created | State::Running => {}
        }
        let container = process.container.clone();
        let request = SignalRequest { container, exec: exec.to_owned(), signal, all };
        let sent = self.agent.containers().signal(request).await;
        sent.map_err(AgentError::refused("deliver the signal"))?;
        Ok(())
    }

    /// Sets the size of a process's terminal.
    pub async fn resize(&self, exec: &str, columns: u16, rows: u16) -> Result<(), ShimError> {
        let process = self.process(exec)?;
        process.set_size(columns, rows);
        if process.state() == State::Created && !exec.is_empty() {
            // It is born with that size.
            return Ok(());
        }
        let request = ResizeRequest {
            container: process.container.clone(),
            exec: exec.to_owned(),
            columns: columns.into(),
            rows: rows.into(),
        };
        let done = self.agent.containers().resize(request).await;
        done.map_err(AgentError::refused("set the size of the terminal"))?;
        Ok(())
    }

    /// Changes limits: `linux.resources` of the OCI runtime specification, as JSON.
    pub async fn update(&self, resources: Vec<u8>) -> Result<(), ShimError> {
        let request = UpdateRequest { container: self.init.container.clone(), resources };
        let done = self.agent.containers().update(request).await;
        done.map_err(AgentError::refused("change the limits"))?;
        Ok(())
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<StatsResponse, ShimError> {
        let request = StatsRequest { container: self.init.container.clone() };
        let answer = self.agent.containers().stats(request).await;
        Ok(answer.map_err(AgentError::refused("tell what the container uses"))?.into_inner())
    }

    /// Has the guest forget a process, or the container. A guest that is gone has forgotten it, and one that does not
    /// answer in time may do as it likes: what it has is its own.
    pub async fn forget(&self, exec: &str) {
        let container = self.init.container.clone();
        let request = DeleteRequest { container, exec: exec.to_owned(), force: exec.is_empty() };
        tokio::time::timeout(FORGET_PATIENCE, self.agent.containers().delete(request)).await.ok();
    }
}

/// Waits for the end of a process, and tells of it.
pub async fn attend(container: Arc<Container>, process: Arc<Process>, teller: Teller, log: Log) {
    let request = WaitRequest { container: process.container.clone(), exec: process.exec.clone() };
    let mut containers = container.agent.containers();
    let status = tokio::select! {
        answer = containers.wait(request) => match answer {
            Ok(answer) => answer.into_inner().status,
            Err(status) => {
                log.warn(&process.container, &format!("the end of a process is not known: {}", status.message()));
                KILLED
            }
        },
        end = container.machine.ended() => {
            log.warn(&process.container, &end.to_string());
            KILLED
        }
    };
    let exit = Exit { status, at: SystemTime::now() };
    process.heard().await;
    let _telling = process.telling.lock().await;
    // Published before anybody who waits can go on and end the shim.
    let published = teller.exited(&process, container.pid, exit);
    process.reached(State::Ended(exit));
    published.told().await;
}

/// Each change under these locks is complete in itself.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
