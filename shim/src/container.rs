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
use rvm_sandbox::machine::{Machine, MachineError};
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
use crate::shim::or_its_end;
use crate::streaming::Streams;
use crate::tell::Teller;

/// How long the guest may take to forget a container, and to tell that it is over.
pub const FORGET_PATIENCE: Duration = Duration::from_secs(5);

/// How long the guest may take to do what is asked for. Long: hosts are busy, or emulated; it is for guests that hang.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take to kill a process. Then the machine is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

const SIGKILL: u32 = libc::SIGKILL.unsigned_abs();

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

    /// Runs hooks behind its start, whose failure stops nothing.
    pub async fn run_poststart(&self, log: &Log) {
        let subject = Subject { id: self.id(), pid: Some(self.pid), bundle: &self.bundle };
        if let Err(error) = self.hooks.run(Moment::Running, subject).await {
            log.warn(self.id(), &chain(&error));
        }
    }

    /// Runs those behind its removal, whose failure stops nothing either.
    pub async fn run_poststop(&self, log: &Log) {
        if let Err(error) = self.hooks.settle(self.id(), &self.bundle).await {
            log.warn(self.id(), &chain(&error));
        }
    }

    /// Whether it is frozen.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Starts the first process.
    pub async fn start_first(&self) -> Result<(), ShimError> {
        let attempt = "start the container";
        let started = async {
            self.network.ready_for(self.resolv_conf.as_deref()).await?;
            let request = StartRequest { container: self.id().to_owned() };
            self.agent.containers().start(request).await.map_err(AgentError::refused(attempt))?;
            Ok(())
        };
        in_time(attempt, started).await
    }

    /// Ends the first process, which could not be started, and waits until that is known: containerd's clients remove a
    /// task that has ended, and `ctr` of containerd 1.7 no other.
    pub async fn end_first(&self) {
        // It may have ended already.
        self.kill("", SIGKILL, false).await.ok();
        tokio::time::timeout(FORGET_PATIENCE, self.init.ended()).await.ok();
    }

    /// Starts the process of an exec.
    pub async fn start_exec(&self, process: &Process, log: &Log) -> Result<(), ShimError> {
        let subject = logger::Subject { namespace: &self.namespace, id: process.id() };
        let opened = process.paths.open(&self.streams, subject).await?;
        let attempt = "start the process";
        let started = async {
            let (tokens, stdio) = streams::open(&self.agent, process.paths.wanted(process.size())).await?;
            let request = ExecRequest {
                container: process.container.clone(),
                exec: process.exec.clone(),
                process: process.spec.clone(),
                streams: Some(tokens),
                user: None,
            };
            self.agent.containers().exec(request).await.map_err(AgentError::refused(attempt))?;
            Ok(stdio)
        };
        let stdio = in_time(attempt, started).await?;
        process.set_carried(opened.carry(stdio, log));
        Ok(())
    }

    /// Sends a signal to a process, or to all. Where the guest does not kill in time, its machine is killed.
    pub async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<(), ShimError> {
        let process = self.process(exec)?;
        match process.state() {
            State::Ended(_) => return Err(ShimError::Ended(process.id().to_owned())),
            State::Created if !exec.is_empty() => process.require(State::Running, "send a signal to")?,
            State::Created | State::Running => {}
        }
        let container = process.container.clone();
        let request = SignalRequest { container, exec: exec.to_owned(), signal, all };
        let mut containers = self.agent.containers();
        let sent = containers.signal(request);
        if signal != SIGKILL {
            return answer("deliver the signal", sent).await.map(drop);
        }
        match tokio::time::timeout(KILL_PATIENCE, sent).await {
            Ok(sent) => {
                sent.map_err(AgentError::refused("deliver the signal"))?;
            }
            // It hangs, or will not; and that is the end of all that is in it.
            Err(_) => self.machine.stop().await,
        }
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
        answer("set the size of the terminal", self.agent.containers().resize(request)).await.map(drop)
    }

    /// Changes limits: `linux.resources` of the OCI runtime specification, as JSON.
    pub async fn update(&self, resources: Vec<u8>) -> Result<(), ShimError> {
        let request = UpdateRequest { container: self.init.container.clone(), resources };
        answer("change the limits", self.agent.containers().update(request)).await.map(drop)
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<StatsResponse, ShimError> {
        let request = StatsRequest { container: self.init.container.clone() };
        answer("tell what the container uses", self.agent.containers().stats(request)).await
    }

    /// Waits until the ends of the processes that ran beside the first one are told, as long as a guest may take for that.
    pub async fn execs_ended(&self) {
        let execs: Vec<_> = locked(&self.execs).values().cloned().collect();
        let all_ended = async {
            for process in execs.into_iter().filter(|process| process.state() == State::Running) {
                process.ended().await;
            }
        };
        tokio::time::timeout(FORGET_PATIENCE, all_ended).await.ok();
    }

    /// Has the guest forget a process, or the container. A guest that is gone has forgotten it, and one that does not
    /// answer in time may do as it likes: what it has is its own.
    pub async fn forget(&self, exec: &str) {
        let container = self.init.container.clone();
        let request = DeleteRequest { container, exec: exec.to_owned(), force: exec.is_empty() };
        tokio::time::timeout(FORGET_PATIENCE, self.agent.containers().delete(request)).await.ok();
    }
}

/// What the guest answers, if it does in time.
pub async fn answer<T>(
    attempt: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ShimError> {
    let answered = async { Ok(call.await.map_err(AgentError::refused(attempt))?.into_inner()) };
    in_time(attempt, answered).await
}

/// What becomes of `attempt`, if it does in time.
pub async fn in_time<T>(
    attempt: &'static str,
    outcome: impl Future<Output = Result<T, ShimError>>,
) -> Result<T, ShimError> {
    let in_time = tokio::time::timeout(ANSWER_PATIENCE, outcome).await;
    in_time.unwrap_or_else(|_| Err(AgentError::Silent { attempt, patience: ANSWER_PATIENCE }.into()))
}

/// Waits for the end of a process, and tells of it.
pub async fn attend(container: Arc<Container>, process: Arc<Process>, teller: Teller, log: Log) {
    let request = WaitRequest { container: process.container.clone(), exec: process.exec.clone() };
    let mut containers = container.agent.containers();
    let answer = tokio::select! {
        answer = containers.wait(request) => {
            answer.map_err(|status| AgentError::refused("tell how the process ended")(status).into())
        }
        end = container.machine.ended() => Err(ShimError::from(MachineError::Ended(Box::new(end)))),
    };
    // By the host's clock: the guest's is its own, set once when it booted, and the answer is here at once.
    let at = SystemTime::now();
    let status = match answer {
        Ok(answer) => answer.into_inner().status,
        Err(error) => {
            // The connection to the agent breaks before the machine's end is known, which is the reason.
            let error = or_its_end(&container.machine, error).await;
            log.warn(&process.container, &format!("{} counts as killed: {}", process.title(), chain(&error)));
            KILLED
        }
    };
    let exit = Exit { status, at };
    process.heard().await;
    let _telling = process.telling.lock().await;
    log.say(
        process.level(),
        &process.container,
        format_args!("{} ended with status {status}", process.title()),
    );
    // Published before anybody who waits can go on and end the shim.
    let published = teller.exited(&process, container.pid, exit);
    process.reached(State::Ended(exit));
    published.told().await;
}

/// Each change under these locks is complete in itself.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
