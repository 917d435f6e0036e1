//! The commands for containers that are there: each finds the sandbox by name or id, and asks its supervisor.

mod control;
mod copy;
mod exec;
mod inspect;
mod logs;
mod ps;
pub mod signals;
mod stats;
mod top;

use std::io;

use super::attach::{AttachError, Attached};
use crate::logging;
use crate::state::{Directory, Phase, Record, Runtime, StateError, short};
use crate::supervisor::STATUS_FAILED;
use crate::supervisor::protocol::{Reply, Request};

pub use control::{KillArgs, NameArgs, RmArgs, StopArgs, kill, pause, port, rm, stop, unpause, wait};
pub use copy::{CpArgs, cp};
pub use exec::{ExecArgs, exec};
pub use inspect::inspect;
pub use logs::{LogsArgs, logs};
pub use ps::{PsArgs, ps};
pub use stats::{StatsArgs, stats};
pub use top::{TopArgs, top};

/// Exit status of a command of which a part failed.
const STATUS_PARTLY: u8 = 1;

/// Why a command for a container failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No such container, or its state is unreadable.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its supervisor.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It is not in the state for this.
    #[error("container '{name}' {is}")]
    Phase {
        /// As the user named it.
        name: String,
        /// What it is, and what to do.
        is: &'static str,
    },
    /// A value of a flag.
    #[error("{0}")]
    Value(String),
    /// The host.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ContainerError {
    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Host { attempt, source }
    }

    /// The exit status for it.
    fn status(&self) -> u8 {
        match self {
            Self::Attach(AttachError::Refused { status, .. }) => *status,
            _ => STATUS_FAILED,
        }
    }
}

/// Says what is wrong, if something is; gives the exit status.
fn report(result: Result<u8, ContainerError>) -> u8 {
    result.unwrap_or_else(|error| {
        logging::say(&logging::chain(&error));
        error.status()
    })
}

/// Does `work` for each of `names`, says what failed, and prints the names of the others.
fn for_each(names: &[String], work: impl Fn(&Runtime, &str) -> Result<(), ContainerError>) -> u8 {
    report(Runtime::open().map_err(ContainerError::from).map(|runtime| {
        let mut status = 0;
        for name in names {
            match work(&runtime, name) {
                Ok(()) => {
                    // A reader that is gone does not keep the rest from being done.
                    super::print(&format!("{name}\n")).ok();
                }
                Err(error) => {
                    logging::say(&logging::chain(&error));
                    status = STATUS_PARTLY;
                }
            }
        }
        status
    }))
}

/// A sandbox by name, that runs.
fn running(runtime: &Runtime, name: &str) -> Result<(Directory, Record), ContainerError> {
    let (directory, record) = runtime.find(name)?;
    let is = match directory.status()?.phase {
        Phase::Running | Phase::Paused => return Ok((directory, record)),
        Phase::Created => "is being started; try again in a moment",
        Phase::Exited => "is not running; `rvm run` starts a new one",
    };
    Err(ContainerError::Phase { name: name.to_owned(), is })
}

/// Asks the supervisor of a sandbox that runs.
fn ask(runtime: &Runtime, name: &str, request: &Request) -> Result<Reply, ContainerError> {
    let (directory, _) = running(runtime, name)?;
    Ok(Attached::connect(&directory.control(), request)?.reply()?)
}

/// Rows in columns, as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The name of a sandbox as tables show it.
fn id_cell(record: &Record) -> String {
    short(&record.id).to_owned()
}
