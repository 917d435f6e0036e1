//! Standard streams of processes: what their pipes and terminals are to be, and the copying between those and the
//! streams that the host opened.
//!
//! Each direction is a task of its own with one buffer: who does not read stops who writes to it, and nobody else. The
//! end of a direction goes on to the other side: the host's half-close is the end of a process's standard
//! input; the end of its output closes the host's stream.
//!
//! When a process has ended, what it wrote is there to be read: it is copied to the last byte, and then the stream is
//! closed, even if others still have the pipe.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use rvm_agent::container::Stdio;

use crate::descriptor::Descriptor;
use crate::reaper::Ending;

/// What is copied at a time: the capacity of a pipe.
const BUFFER: usize = 64 << 10;
/// The most that a process can have left in a pipe when it ended: what a pipe can be made to hold by who has no
/// privilege (/proc/sys/fs/pipe-max-size). Others that still write are not waited for any longer.
const LEFT_BEHIND: usize = 1 << 20;

/// The streams that the host opened for a process; those that are missing are /dev/null.
#[derive(Debug, Default)]
pub struct Streams {
    /// What it reads.
    pub stdin: Option<Descriptor>,
    /// What it writes; with a terminal, all of that.
    pub stdout: Option<Descriptor>,
    /// What it writes, as errors.
    pub stderr: Option<Descriptor>,
}

/// The agent's ends of a process's pipes.
#[derive(Debug, Default)]
pub struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// A pipe for each stream that there is, /dev/null for the others: the process's ends and the agent's.
pub fn pipes(streams: &Streams) -> io::Result<(Stdio, Ends)> {
    let (stdin, agents_stdin) = match streams.stdin {
        Some(_) => pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (read, Some(write)))?,
        None => (null()?, None),
    };
    let output = |stream: &Option<Descriptor>| match stream {
        Some(_) => io::Result::Ok(pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (write, Some(read)))?),
        None => Ok((null()?, None)),
    };
    let (stdout, agents_stdout) = output(&streams.stdout)?;
    let (stderr, agents_stderr) = output(&streams.stderr)?;
    let ends = Ends { stdin: agents_stdin, stdout: agents_stdout, stderr: agents_stderr };
    Ok((Stdio::Descriptors { stdin, stdout, stderr }, ends))
}

fn null() -> nix::Result<OwnedFd> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

/// Copies between a process's pipes and the host's streams, until all of them have ended.
pub fn connect_pipes(ends: Ends, streams: Streams, ending: &Ending) -> io::Result<()> {
    if let (Some(process), Some(host)) = (ends.stdin, streams.stdin) {
        let process = Descriptor::new(process)?;
        tokio::spawn(until_ended(ending.clone(), async move { carry_in(&host, &process).await }));
    }
    for (process, host) in [(ends.stdout, streams.stdout), (ends.stderr, streams.stderr)] {
        if let (Some(process), Some(host)) = (process, host) {
            let (process, ending) = (Descriptor::new(process)?, ending.clone());
            tokio::spawn(async move { carry_out(&process, &host, ending).await });
        }
    }
    Ok(())
}

/// Copies between a process's terminal, by its master, and the host's streams, until they have ended.
pub fn connect_terminal(master: OwnedFd, streams: Streams, ending: &Ending) -> io::Result<()> {
    let master = Arc::new(Descriptor::new(master)?);
    if let Some(host) = streams.stdin {
        let master = Arc::clone(&master);
        tokio::spawn(until_ended(ending.clone(), async move { carry_in(&host, &master).await }));
    }
    let mut ending = ending.clone();
    tokio::spawn(async move {
        if let Some(host) = streams.stdout {
            carry_out(&master, &host, ending.clone()).await;
        }
        // Nobody sees it any more; but who writes to a terminal is not to be stopped by that.
        tokio::select! {
            () = discard(&master) => {}
            _ = ending.wait() => {}
        }
    });
    Ok(())
}

/// Does `work` at most until the process has ended.
async fn until_ended(mut ending: Ending, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = ending.wait() => {}
    }
}

/// From the host to a process, until the host has no more or the process takes no more.
async fn carry_in(host: &Descriptor, process: &Descriptor) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = host.read(&mut buffer).await {
        if process.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

/// From a process to the host, until there is no more or the host takes no more.
async fn carry_out(process: &Descriptor, host: &Descriptor, mut ending: Ending) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            _ = ending.wait() => break,
            read = process.read(&mut buffer) => read,
        };
        // A master whose terminal nobody has open gives an error (EIO), which is its end.
        let Ok(length @ 1..) = read else { break };
        if host.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    let mut left = LEFT_BEHIND;
    while let Ok(length @ 1..) = process.try_read(&mut buffer)
        && left > 0
    {
        left = left.saturating_sub(length);
        if host.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    // Fails where the host has closed it already.
    let _ = host.shutdown(Shutdown::Write);
}

/// Reads to the end, for nobody.
async fn discard(process: &Descriptor) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(1..) = process.read(&mut buffer).await {}
}
