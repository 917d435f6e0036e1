//! Files of a container as a tar archive on a stream of the host, both ways.
//!
//! A process of its own does it, with the container's root as its root: neither a path that the host names, nor a
//! link in the container, nor an entry of the archive can lead out of there, whatever the container changes
//! meanwhile. It is this program again, run as `rvm-agent archive-child ...` (`child`).

pub mod child;
mod pack;
mod unpack;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt;
use tonic::{Code, Status};

use crate::archive::child::{CHILD, EXIT_ABSENT, EXIT_FULL, EXIT_INVALID};
use crate::descriptor::Descriptor;
use crate::reaper::{Ending, Reaper};
use crate::refusal::Refusal;
use crate::sys;

/// The most of what the child says about its failure.
const MAX_MESSAGE: u64 = 4096;

/// What to do with a path of the container.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// Write it to the stream; `follow` a link that it ends in.
    Read {
        /// In the container.
        path: &'a str,
        /// Whether a link's target is meant.
        follow: bool,
    },
    /// Unpack the stream below it.
    Write {
        /// In the container.
        path: &'a str,
    },
}

impl Work<'_> {
    /// The path in the container.
    pub fn path(&self) -> &str {
        match self {
            Self::Read { path, .. } | Self::Write { path } => path,
        }
    }

    fn words(&self) -> [&OsStr; 3] {
        let what = match self {
            Self::Read { follow: false, .. } => "read",
            Self::Read { follow: true, .. } => "read-followed",
            Self::Write { .. } => "write",
        };
        [CHILD, what, self.path()].map(OsStr::new)
    }
}

/// Does it, below `root`. If this future is dropped, the process is ended.
pub async fn run(reaper: &Reaper, root: OwnedFd, stream: Descriptor, work: Work<'_>) -> Result<(), Status> {
    let start = || start(reaper, root, stream, work);
    let (child, messages) =
        start().map_err(Refusal::kernel(|| "run the agent as archive-child".to_owned()))?;
    let mut message = Vec::new();
    let read = messages.take(MAX_MESSAGE).read_to_end(&mut message).await;
    read.map_err(Refusal::kernel(|| "hear from archive-child".to_owned()))?;
    let code = match child.ending.clone().wait().await.code {
        0 => return Ok(()),
        EXIT_ABSENT => Code::NotFound,
        EXIT_INVALID => Code::InvalidArgument,
        EXIT_FULL => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    let message = String::from_utf8_lossy(&message);
    Err(Status::new(code, message.trim_end()))
}

/// Starts the child: the root is its standard input, the stream its output, and what it says is its error.
fn start(
    reaper: &Reaper,
    root: OwnedFd,
    stream: Descriptor,
    work: Work<'_>,
) -> io::Result<(Child, Descriptor)> {
    let (messages, childs) = pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(work.words()).env_clear();
    command.stdin(root).stdout(Stdio::from(stream.into_blocking()?)).stderr(childs);
    sys::in_own_group(&mut command, false);
    let pid = command.spawn()?.id();
    let child = Child { pid, ending: reaper.watch(pid) };
    Ok((child, Descriptor::new(messages)?))
}

/// A child that is ended when nobody waits for it any more.
struct Child {
    pid: u32,
    ending: Ending,
}

impl Drop for Child {
    fn drop(&mut self) {
        // Its number is its own until the reaper, which runs on this thread, has taken it.
        if let (None, Ok(pid)) = (self.ending.now(), i32::try_from(self.pid)) {
            // It may have ended by now, which is no fault.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
