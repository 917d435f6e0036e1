//! A process of a container, from the agent's side: how it is made, let go, and asked about.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio as CommandStdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Uid, fchown};

use super::channel::{Answer, Channel, Order};
use super::plan::namespaces::{IdMaps, outside};
use super::plan::process::{Limit, ProcessPlan};
use super::{CHILD, Error, Made, sys};

/// What a process has as standard input, output and error.
#[derive(Debug)]
pub enum Stdio {
    /// These: ends of pipes, or /dev/null.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts, of this size. `process.terminal` says the same.
    Terminal(WindowSize),
}

impl Stdio {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line; 0: not known.
    pub columns: u16,
    /// Lines; 0: not known.
    pub rows: u16,
}

/// A process of a container.
#[derive(Debug)]
pub struct Executed {
    pid: u32,
    pidfd: OwnedFd,
}

impl Executed {
    /// Its number in the agent's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        // A pidfd is readable from then on. Where that cannot be asked, memory is short, and the next call says so.
        sys::wait_for(&self.pidfd, PollFlags::POLLIN, Duration::ZERO).unwrap_or_default()
    }

    /// Sends a signal; 0 sends none. To a process that ended: no error.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        match sys::signal_process(self.pidfd.as_fd(), signal) {
            Err(err) if err.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent.map_err(Error::at(format!("send signal {signal} to process {}", self.pid))),
        }
    }
}

impl AsFd for Executed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A process that waits before it becomes its program.
#[derive(Debug)]
pub struct Waiting {
    process: Executed,
    channel: Option<Channel>,
    program: String,
}

impl Waiting {
    /// The process.
    pub fn process(&self) -> &Executed {
        &self.process
    }

    /// The process, which was let go.
    pub fn into_process(self) -> Executed {
        self.process
    }

    /// Lets it become its program; returns when it has. After an error it ends, or has been ended.
    pub fn go(&mut self) -> Result<(), Error> {
        let Some(channel) = self.channel.take() else {
            return Ok(());
        };
        let answer = channel.let_go().and_then(|()| channel.next_answer());
        match answer {
            // exec has closed the last copy of the other end.
            Ok(None) => Ok(()),
            Ok(Some((answer, _))) => Err(failure(answer, &self.program)),
            Err(err) => {
                // It says nothing: perhaps a hook, or a file system, hangs.
                self.process.signal(libc::SIGKILL)?;
                Err(Error::at(format!("run {}", self.program))(err))
            }
        }
    }
}

/// Has `program` make a process, which then waits. `before` are the order's descriptors without the streams.
pub fn make(
    program: &Path,
    order: &Order,
    process: &ProcessPlan,
    before: &[BorrowedFd<'_>],
    id_maps: Option<&IdMaps>,
    stdio: Stdio,
) -> Result<Made<Waiting>, Error> {
    let failed = || Error::at("start the process that makes a container's");
    give_streams(&stdio, process, id_maps)?;
    let (channel, theirs) = Channel::pair().map_err(failed())?;
    run(program, theirs).map_err(failed())?;
    let mut descriptors = before.to_vec();
    if let Stdio::Descriptors { stdin, stdout, stderr } = &stdio {
        descriptors.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    }
    channel.order(order, &descriptors).map_err(failed())?;

    let name = process.args.first().cloned().unwrap_or_default();
    let (made, terminal) = until_ready(&channel, &name)?;
    let finish = || {
        set_limits(&made, &process.limits)?;
        if let (Some(terminal), Stdio::Terminal(size)) = (&terminal, &stdio) {
            super::resize(terminal, size_of(*size, process))?;
        }
        Ok(())
    };
    match finish() {
        Ok(()) => {
            let waiting = Waiting { process: made, channel: Some(channel), program: name };
            Ok(Made { what: waiting, terminal })
        }
        Err(err) => {
            made.signal(libc::SIGKILL)?;
            Err(err)
        }
    }
}

/// Runs this program as a child, with its end of the channel as standard input. It ends by itself, and is reaped with
/// every other child.
fn run(program: &Path, theirs: OwnedFd) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg(CHILD).env_clear().current_dir("/").stdin(theirs).stdout(CommandStdio::null());
    #[allow(clippy::zombie_processes, reason = "whoever calls reaps every child, whosever it is")]
    command.spawn().map(drop)
}

/// What the processes say until the one that was made waits.
fn until_ready(channel: &Channel, program: &str) -> Result<(Executed, Option<OwnedFd>), Error> {
    let (mut made, mut ready) = (None, None);
    loop {
        let failed = || Error::at(format!("make the process for {program}"));
        let answer = match channel.next_answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(failed()(Errno::EPIPE.into())),
            Err(err) => {
                // It does not go on: perhaps a file system hangs.
                end(made.as_ref())?;
                return Err(failed()(err));
            }
        };
        match answer {
            (Answer::Made { pid }, Some(pidfd)) => made = Some(Executed { pid, pidfd }),
            (Answer::Ready, terminal) => ready = Some(terminal),
            (answer, _) => return Err(failure(answer, program)),
        }
        // The two come from two processes, in either order.
        match (made, ready) {
            (Some(made), Some(terminal)) => return Ok((made, terminal)),
            pair => (made, ready) = pair,
        }
    }
}

/// The request's size of a terminal, else the specification's.
fn size_of(asked: WindowSize, process: &ProcessPlan) -> WindowSize {
    match process.console_size {
        Some((columns, rows)) if asked == WindowSize::default() => WindowSize { columns, rows },
        _ => asked,
    }
}

/// Makes pipes the user's: what is opened by the names of /dev/stdout and its like asks for permission again. From here,
/// since root of a user namespace may not.
fn give_streams(stdio: &Stdio, process: &ProcessPlan, id_maps: Option<&IdMaps>) -> Result<(), Error> {
    let owner = match id_maps {
        None => Some(process.uid),
        Some(maps) => outside(&maps.users, process.uid),
    };
    let owner =
        owner.ok_or_else(|| Error::invalid("process.user.uid", "linux.uidMappings does not have it"))?;
    let Stdio::Descriptors { stdin, stdout, stderr } = stdio else {
        return Ok(());
    };
    for stream in [stdin, stdout, stderr] {
        let give = || {
            let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
            if kind == SFlag::S_IFIFO { fchown(stream, Some(Uid::from_raw(owner)), None) } else { Ok(()) }
        };
        give().map_err(Error::at("give the user the process's streams"))?;
    }
    Ok(())
}

fn end(made: Option<&Executed>) -> Result<(), Error> {
    made.map_or(Ok(()), |made| made.signal(libc::SIGKILL))
}

fn failure(answer: Answer, program: &str) -> Error {
    let program = program.to_owned();
    match answer {
        Answer::NotExecuted { errno: libc::ENOENT | libc::ENOTDIR } => Error::NoProgram { program },
        Answer::NotExecuted { errno } => {
            Error::NotExecutable { program, reason: io::Error::from_raw_os_error(errno) }
        }
        Answer::Failed { step, errno } => Error::Kernel { step, source: io::Error::from_raw_os_error(errno) },
        Answer::Made { .. } | Answer::Ready => {
            Error::at(format!("make the process for {program}"))(Errno::EPROTO)
        }
    }
}

/// Sets the limits from here: the process itself, in a user namespace, could not raise them.
fn set_limits(process: &Executed, limits: &[Limit]) -> Result<(), Error> {
    for Limit { resource, soft, hard } in limits {
        sys::set_limit(process.pid, *resource, *soft, *hard)
            .map_err(Error::at(format!("set process.rlimits: resource {resource} from {soft} to {hard}")))?;
    }
    Ok(())
}
