//! A process of a container: a container's first one, or one of an exec.
//!
//! ```text
//!  Created ── Start ──> Running ──> Ended
//!     └────── killed before Start ───┘
//! ```
//!
//! One task a process waits for its end and tells of it; everybody else waits for the state.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::error::ShimError;
use crate::log::Level;
use crate::stdio::{Carried, Paths};

/// How long a client of connections may take to read everything, before it hears of the end all the same.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// What a process that nobody can tell the end of has ended with: SIGKILL.
pub const KILLED: u32 = 128 + 9;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the signal.
    pub status: u32,
    /// When this was heard of, by the host's clock.
    pub at: SystemTime,
}

/// How far a process came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its start.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Ended(Exit),
}

impl State {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running => "running",
            Self::Ended(_) => "ended",
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Its container.
    pub container: String,
    /// Its name in the container; the first process has none.
    pub exec: String,
    /// Where its streams are.
    pub paths: Paths,
    /// `process` of the OCI runtime specification, of one that is made when it is started.
    pub spec: Vec<u8>,
    /// Held while its start is told of, so that its end is told of after that.
    pub telling: tokio::sync::Mutex<()>,
    state: watch::Sender<State>,
    size: Mutex<Option<(u16, u16)>>,
    carried: Mutex<Option<Carried>>,
}

impl Process {
    /// One that waits for its start.
    pub fn new(container: &str, exec: &str, paths: Paths, spec: Vec<u8>) -> Self {
        Self {
            container: container.to_owned(),
            exec: exec.to_owned(),
            paths,
            spec,
            telling: tokio::sync::Mutex::new(()),
            state: watch::Sender::new(State::Created),
            size: Mutex::new(None),
            carried: Mutex::new(None),
        }
    }

    /// Its name as events have it.
    pub fn id(&self) -> &str {
        if self.exec.is_empty() { &self.container } else { &self.exec }
    }

    /// What it is, for the log.
    pub fn title(&self) -> String {
        match self.exec.as_str() {
            "" => "the container".to_owned(),
            exec => format!("the process {exec}"),
        }
    }

    /// How much its life matters in the log: health checks may run a process every second.
    pub fn level(&self) -> Level {
        if self.exec.is_empty() { Level::Info } else { Level::Debug }
    }

    /// How far it came.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// It came further.
    pub fn reached(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Refuses what only a process in state `wanted` can have done to it.
    pub fn require(&self, wanted: State, attempt: &'static str) -> Result<(), ShimError> {
        match self.state() {
            state if state == wanted => Ok(()),
            state => Err(ShimError::State { attempt, id: self.id().to_owned(), state: state.name() }),
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Exit {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, State::Ended(_))).await;
        match ended.as_deref() {
            Ok(State::Ended(exit)) => *exit,
            // The sender is ours.
            _ => Exit { status: KILLED, at: SystemTime::now() },
        }
    }

    /// The size its terminal is to have from the start.
    pub fn size(&self) -> Option<(u16, u16)> {
        *locked(&self.size)
    }

    /// Sets that.
    pub fn set_size(&self, columns: u16, rows: u16) {
        *locked(&self.size) = Some((columns, rows));
    }

    /// Its streams are carried from now on.
    pub fn set_carried(&self, carried: Carried) {
        *locked(&self.carried) = Some(carried);
    }

    /// Of a process that has ended: waits, for a while, until its client has read what it would lose by hearing of the end:
    /// containerd's CRI throws away what it has not read of a connection then.
    pub async fn heard(&self) {
        let carried = locked(&self.carried).take_if(|carried| carried.are_lost_with_the_end);
        if let Some(mut carried) = carried {
            // One that does not read does without.
            tokio::time::timeout(READ_PATIENCE, carried.drained()).await.ok();
            *locked(&self.carried) = Some(carried);
        }
    }

    /// No client writes to its standard input any more.
    pub fn close_input(&self) {
        if let Some(carried) = locked(&self.carried).as_mut() {
            carried.close_input();
        }
    }

    /// How it ended; one that was never started counts as killed.
    pub fn exit_or_killed(&self) -> Exit {
        match self.state() {
            State::Ended(exit) => exit,
            State::Created | State::Running => Exit { status: KILLED, at: SystemTime::now() },
        }
    }

    /// Of a process that does not run: waits until its output has been written, for a while; then nothing is carried
    /// any more. False: some is lost.
    pub async fn close_streams(&self) -> Result<bool, ShimError> {
        if self.state() == State::Running {
            let (id, state) = (self.id().to_owned(), State::Running.name());
            return Err(ShimError::State { attempt: "delete", id, state });
        }
        let carried = locked(&self.carried).take();
        Ok(match carried {
            Some(mut carried) if matches!(self.state(), State::Ended(_)) => {
                tokio::time::timeout(carried.patience, carried.drained()).await.is_ok()
            }
            // What was never started has said nothing.
            _ => true,
        })
    }
}

/// Each change under these locks is complete in itself.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
