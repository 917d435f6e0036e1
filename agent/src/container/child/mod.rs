//! What the runtime's program does when it is run as a child of the agent: a process of one thread makes the
//! container's, which becomes the user's program.
//!
//! ```text
//! agent ──exec──> this program ──clone3(namespaces, group)──> first process ──exec──> the user's program
//!   │ order            │ Made, pidfd                               │ Ready  ... go ...
//!   └──────────────────┴───────────────────────────────────────────┘ one channel
//! ```
//!
//! A fork needs a process of one thread: in an agent with several, another one could hold a lock at that moment.
//! This process ends as soon as the other is made, which is a child of the agent, like this one.

mod execute;
mod files;
mod first;
mod hooks;
mod mounts;
mod program;
mod root;
mod terminal;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;

use super::channel::{Answer, Channel, Order};
use program::Streams;

/// Why the process cannot be made.
#[derive(Debug)]
enum Failure {
    /// A step failed.
    Step {
        /// What was attempted, on what.
        step: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The program cannot be executed.
    Program(Errno),
    /// The agent does not want the process any more.
    Unwanted,
}

impl Failure {
    /// For `map_err`: `step` failed.
    fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        |err| {
            let errno = err.into().raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Self::Step { step: step.into(), errno }
        }
    }
}

/// Exit codes of a process that did not become its program, as shells and runtimes give them.
const EXIT_FAILED: u8 = 125;
const EXIT_NOT_EXECUTABLE: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

/// Takes an order from standard input, and follows it: in the process that was made, until it becomes its program.
pub fn main() -> ExitCode {
    // The copy that is standard input stays until the container's takes its place: no other file gets its number.
    let Ok(channel) = io::stdin().as_fd().try_clone_to_owned().map(Channel::over) else {
        return ExitCode::from(EXIT_FAILED);
    };
    let (answer, code) = match follow(&channel) {
        Ok(Made) => return ExitCode::SUCCESS,
        Err(Failure::Unwanted) => return ExitCode::from(EXIT_FAILED),
        Err(Failure::Step { step, errno }) => (Answer::Failed { step, errno: errno as i32 }, EXIT_FAILED),
        Err(Failure::Program(errno)) => {
            let code = match errno {
                Errno::ENOENT | Errno::ENOTDIR => EXIT_NOT_FOUND,
                _ => EXIT_NOT_EXECUTABLE,
            };
            (Answer::NotExecuted { errno: errno as i32 }, code)
        }
    };
    // Where this fails the agent is gone, or the container's filter forbids it: then the exit code says it.
    let _ = channel.answer(&answer, None);
    ExitCode::from(code)
}

/// The process is made, and this one has done its work.
struct Made;

fn follow(channel: &Channel) -> Result<Made, Failure> {
    let (order, descriptors) = channel.take_order().map_err(Failure::at("read the order"))?;
    // Whoever shares a namespace with this process must not look into it: it is more than the container yet.
    nix::sys::prctl::set_dumpable(false).map_err(Failure::at("hide from other processes"))?;
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(|| Failure::at("read the order")(Errno::EBADF));
    match order {
        Order::Create(plan) => {
            let group = next()?;
            let streams = streams(plan.process.terminal, next)?;
            first::make(&plan, &group, streams, channel)
        }
        Order::Execute { namespaces, process } => {
            let (group, container) = (next()?, next()?);
            let streams = streams(process.terminal, next)?;
            execute::make(&process, namespaces, &group, &container, streams, channel)
        }
    }
}

fn streams(
    terminal: bool,
    mut next: impl FnMut() -> Result<OwnedFd, Failure>,
) -> Result<Option<Streams>, Failure> {
    if terminal { Ok(None) } else { Ok(Some(Streams::given([next()?, next()?, next()?]))) }
}

/// Tells the agent of the process that was made.
fn tell_made(channel: &Channel, pid: u32, pidfd: &OwnedFd) -> Result<Made, Failure> {
    let told = channel.answer(&Answer::Made { pid }, Some(pidfd.as_fd()));
    told.map_err(Failure::at("tell the agent of the process"))?;
    Ok(Made)
}

/// Lowers or raises the likeliness of being ended when memory is short; children inherit it.
fn set_oom_score(score: Option<i32>) -> Result<(), Failure> {
    match score {
        Some(score) => std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(Failure::at("set process.oomScoreAdj")),
        None => Ok(()),
    }
}
