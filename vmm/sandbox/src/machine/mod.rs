//! A virtual machine as the host sees it that started it: the VMM's process, and its control socket.
//!
//! ```text
//!  Machine::start ── spawns ──> rvm boot --config FD ── control socket ──> drive (a task): progress, answers
//!  Machine::ready  waits for the guest's word;  Machine::ended  for the end, with its reason
//! ```
//!
//! The VM ends with the process that holds the [`Machine`]: the VMM sees the socket close.

mod control;
mod spawn;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rvm_config::VmConfig;
use rvm_config::control::{Command, Ended, Layout, Outcome, Reason};
use tokio::sync::{mpsc, oneshot, watch};

/// Why a machine does not run, or does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The host refused.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended.
    #[error("{0}")]
    Ended(Box<End>),
    /// The VMM refused a request.
    #[error("the VM cannot {attempt}: {reason}")]
    Refused {
        /// What was asked.
        attempt: &'static str,
        /// Its reason.
        reason: String,
    },
}

impl MachineError {
    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { attempt, source: source.into() }
    }
}

/// How far a boot came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The VMM prepares the machine.
    Setup,
    /// The guest's kernel boots.
    Kernel,
    /// The guest's first process starts.
    Init,
    /// The guest works.
    Running,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "before it was started",
            Self::Kernel => "while the guest's kernel booted",
            Self::Init => "while the guest's first process started",
            Self::Running => "while the guest ran",
        })
    }
}

/// How a machine ended, and when.
#[derive(Clone, Debug)]
pub struct End {
    /// What it had reached.
    pub phase: Phase,
    /// What the VMM said of it.
    pub ended: Ended,
}

/// One line, and the console's last lines behind it where they explain something.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.ended.reason {
            Reason::NotStarted => "the VM could not be started",
            Reason::Exited | Reason::PowerOff => "the guest powered off",
            Reason::Reset => "the guest reset itself",
            Reason::Panic => "the guest's kernel panicked",
            Reason::TripleFault => "the guest crashed (triple fault)",
            Reason::Failed => "the VMM failed",
            Reason::Stopped => "the VM was stopped",
            Reason::Signal => "the VMM was ended by a signal",
        };
        f.write_str(what)?;
        if self.ended.reason != Reason::NotStarted {
            write!(f, " {}", self.phase)?;
        }
        if let Some(message) = &self.ended.message {
            write!(f, ": {message}")?;
        }
        f.write_str(&last_lines(self.ended.console.as_deref().unwrap_or_default()))
    }
}

/// The last lines of a guest's console as an error shows them, behind its own line; nothing where there are none. Of a
/// kernel that panicked those around the line that says why: behind it there are only addresses.
fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let end = panic.map_or(lines.len(), |line| lines.len().min(line + 1 + LINES_BEHIND_PANIC));
    let last = lines.iter().take(end).skip(end.saturating_sub(CONSOLE_LINES));
    let shown: String = last.map(|line| format!("\n  {}", line.escape_debug())).collect();
    format!("\nlast lines of the guest's console:{shown}")
}

/// Lines of the console that an error shows.
const CONSOLE_LINES: usize = 10;

/// How Linux begins to say that it panics, and how many of its lines an error shows behind that one.
const PANIC: &str = "Kernel panic - not syncing";
const LINES_BEHIND_PANIC: usize = 2;

/// What is known of a machine that runs.
#[derive(Clone, Debug)]
enum Progress {
    Reached(Phase),
    Ended(Box<End>),
}

/// What the task that holds the control socket is asked for.
enum Order {
    /// To ask the VMM for something, which is about these descriptors.
    Ask { command: Command, descriptors: Vec<OwnedFd>, answer: oneshot::Sender<Outcome> },
    /// To end it.
    Kill,
}

/// A running VMM. It is killed when the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Machine {
    pid: u32,
    orders: mpsc::Sender<Order>,
    progress: watch::Receiver<Progress>,
}

impl Machine {
    /// Starts `program`, an `rvm`, as the VMM of the machine `config`, which has the descriptors in `inherited` by
    /// number. Control socket and console are set here.
    pub fn start(
        program: &Path,
        config: &VmConfig,
        inherited: &[BorrowedFd<'_>],
    ) -> Result<Self, MachineError> {
        let (vmm, socket) = spawn::vmm(program, config, inherited)?;
        let pid = vmm.id().ok_or_else(|| io::Error::other("it ended at once"));
        let pid = pid.map_err(MachineError::host("start the VMM"))?;
        let (orders, inbox) = mpsc::channel(4);
        let (report, progress) = watch::channel(Progress::Reached(Phase::Setup));
        tokio::spawn(control::drive(vmm, socket, inbox, report));
        Ok(Self { pid, orders, progress })
    }

    /// The VMM's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the guest says that it is ready.
    pub async fn ready(&self) -> Result<(), MachineError> {
        let mut progress = self.progress.clone();
        let known = |progress: &Progress| match progress {
            Progress::Reached(phase) => *phase == Phase::Running,
            Progress::Ended(_) => true,
        };
        match progress.wait_for(known).await.as_deref() {
            Ok(Progress::Ended(end)) => Err(MachineError::Ended(end.clone())),
            Ok(Progress::Reached(_)) => Ok(()),
            Err(_) => Err(control::task_gone()),
        }
    }

    /// Waits for the end of the machine: its process is gone then.
    pub async fn ended(&self) -> End {
        let mut progress = self.progress.clone();
        match progress.wait_for(|progress| matches!(progress, Progress::Ended(_))).await.as_deref() {
            Ok(Progress::Ended(end)) => (**end).clone(),
            _ => control::broken(Phase::Running, String::new()),
        }
    }

    /// Asks the VMM for something; `attempt` is for the message if it refuses.
    pub async fn ask(&self, attempt: &'static str, command: Command) -> Result<Outcome, MachineError> {
        self.ask_about(attempt, command, Vec::new()).await
    }

    async fn ask_about(
        &self,
        attempt: &'static str,
        command: Command,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Outcome, MachineError> {
        let (answer, outcome) = oneshot::channel();
        let order = Order::Ask { command, descriptors, answer };
        self.orders.send(order).await.map_err(|_| control::task_gone())?;
        match outcome.await.map_err(|_| control::task_gone())? {
            Outcome::Refused(reason) => Err(MachineError::Refused { attempt, reason }),
            outcome => Ok(outcome),
        }
    }

    /// Puts files onto a disk that is a placeholder ([`Command::AttachDisk`]).
    pub async fn attach_disk(
        &self,
        id: &str,
        layout: Layout,
        files: Vec<OwnedFd>,
    ) -> Result<(), MachineError> {
        let command = Command::AttachDisk { id: id.to_owned(), layout };
        self.ask_about("take the image", command, files).await.map(drop)
    }

    /// Takes what was put onto a placeholder away from the guest ([`Command::DetachDisk`]).
    pub async fn detach_disk(&self, id: &str) -> Result<(), MachineError> {
        let command = Command::DetachDisk { id: id.to_owned() };
        self.ask("give the image back", command).await.map(drop)
    }

    /// The last lines of the guest's console, for an error that goes on in further lines with them. Where the machine
    /// has ended, that is the error.
    pub async fn last_lines(&self) -> Result<String, MachineError> {
        match self.ask("show the guest's console", Command::ConsoleTail).await {
            Ok(Outcome::Console(console)) => Ok(last_lines(&console)),
            Ok(_) | Err(MachineError::Refused { .. }) => Ok(String::new()),
            Err(_) => Err(MachineError::Ended(Box::new(self.ended().await))),
        }
    }

    /// Ends the machine at once and waits until its process is gone. What the guest has not written is lost.
    pub async fn stop(&self) {
        // Without the task there is no process either.
        self.orders.send(Order::Kill).await.ok();
        self.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_the_lines_around_its_reason_are_shown() {
        let console: String = (0..40)
            .map(|number| match number {
                20 => "[1.0] Kernel panic - not syncing: why\n".to_owned(),
                number => format!("line {number}\n\n"),
            })
            .collect();
        let shown = last_lines(&console);
        let lines: Vec<_> = shown.lines().skip(2).map(str::trim).collect();
        assert_eq!((lines.len(), lines[0], lines[9]), (10, "line 13", "line 22"));
        assert_eq!(lines[7], "[1.0] Kernel panic - not syncing: why");
    }

    #[test]
    fn of_any_other_end_the_last_lines_are_shown() {
        assert_eq!(last_lines("\n\n"), "");
        let console: String = (0..40).map(|number| format!("line {number}\n")).collect();
        let shown = last_lines(&console);
        assert!(shown.starts_with("\nlast lines of the guest's console:\n  line 30\n"), "{shown}");
        assert!(shown.ends_with("\n  line 39"), "{shown}");
    }
}
