//! Programs that take a process's output (`binary://PROGRAM?NAME=VALUE`): the protocol of logging programs of containerd's
//! runtime v2, as its shim for runc speaks it.
//!
//! ```text
//!  descriptor 3: standard output    4: standard error    5: closed, or written to, when the program is ready
//!  arguments: NAME VALUE of every parameter of the query, but of those whose name begins with `env.`
//!  environment: CONTAINER_ID, CONTAINER_NAMESPACE, and what `env.` names; nothing else
//! ```
//!
//! It ends by itself when it has read both to their end; one that does not is sent SIGTERM, and SIGKILL then.
#![allow(unsafe_code, reason = "descriptors get their numbers between fork and exec")]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::address::Address;
use crate::error::ShimError;

/// Where the program finds its descriptors, from the first on.
const FIRST: RawFd = 3;
/// Behind the last of them.
const BEHIND: RawFd = 6;

/// How long a program may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end of a program takes to be known, after its descriptors were closed by it.
const END_PATIENCE: Duration = Duration::from_millis(20);

/// Whose output it is.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container, or the exec.
    pub id: &'a str,
}

/// How long a program may take to end.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When it has read everything.
    pub by_itself: Duration,
    /// After SIGTERM.
    pub by_signal: Duration,
}

impl Patience {
    /// As containerd's shim for runc has it, for both together.
    pub const USUAL: Self = Self { by_itself: Duration::from_secs(10), by_signal: Duration::from_secs(2) };
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Logger {
    child: Child,
}

/// Its ends of the process's outputs.
#[derive(Debug)]
pub struct Outputs {
    /// Standard output.
    pub stdout: pipe::Sender,
    /// Standard error.
    pub stderr: pipe::Sender,
}

impl Logger {
    /// Starts the program at `address`; waits until it is ready.
    pub async fn start(address: &Address, subject: Subject<'_>) -> Result<(Self, Outputs), ShimError> {
        let path = &address.path;
        let failed = |source| ShimError::path("start the logging program", path)(source);
        let (stdout, its_stdout) = pipe::pipe().map_err(failed)?;
        let (stderr, its_stderr) = pipe::pipe().map_err(failed)?;
        let (its_ready, mut ready) = pipe::pipe().map_err(failed)?;
        let descriptors = [
            its_stdout.into_blocking_fd().map_err(failed)?,
            its_stderr.into_blocking_fd().map_err(failed)?,
            its_ready.into_blocking_fd().map_err(failed)?,
        ];
        let mut child = spawn(command(address, subject), &descriptors).map_err(failed)?;
        drop(descriptors);
        let ended = match timeout(READY_PATIENCE, ready.read(&mut [0])).await {
            Ok(Ok(1..)) => None,
            // It closed the descriptor: maybe by its end.
            Ok(_) => timeout(END_PATIENCE, child.wait()).await.ok().transpose().map_err(failed)?,
            Err(_) => {
                return Err(failed(io::Error::other(format!(
                    "it did not say within {} s that it is ready, by closing descriptor 5",
                    READY_PATIENCE.as_secs()
                ))));
            }
        };
        match ended.filter(|status| !status.success()) {
            Some(status) => Err(failed(io::Error::other(format!("it ended before it was ready: {status}")))),
            None => Ok((Self { child }, Outputs { stdout, stderr })),
        }
    }

    /// Waits for its end, which is to come now that its inputs are at theirs.
    pub async fn end(mut self, patience: Patience) {
        if timeout(patience.by_itself, self.child.wait()).await.is_ok() {
            return;
        }
        // It has not been waited for, so that the number is its own.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        if timeout(patience.by_signal, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}

/// The program with its arguments and its environment.
fn command(address: &Address, subject: Subject<'_>) -> Command {
    let mut command = Command::new(&address.path);
    command.env_clear();
    for (name, value) in &address.parameters {
        match name.as_bytes().strip_prefix(b"env.") {
            Some(name) => command.env(OsStr::from_bytes(name), value),
            None => command.arg(name).arg(value),
        };
    }
    command.env("CONTAINER_ID", subject.id).env("CONTAINER_NAMESPACE", subject.namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts it with `descriptors` at the numbers from [`FIRST`] on.
fn spawn(mut command: Command, descriptors: &[OwnedFd; 3]) -> io::Result<Child> {
    // What `spawn` opens for itself must not be at one of those numbers: they are taken, by others or by these.
    let mut taken = Vec::new();
    while taken.last().is_none_or(|file: &File| file.as_raw_fd() < BEHIND) {
        taken.push(File::open("/dev/null")?);
    }
    let above = descriptors.each_ref().map(|descriptor| copy_above(descriptor.as_fd()));
    let above = above.into_iter().collect::<nix::Result<Vec<_>>>()?;
    let numbers: Vec<_> = (FIRST..).zip(above.iter().map(AsRawFd::as_raw_fd)).collect();
    let place = move || {
        for (to, from) in &numbers {
            // SAFETY: dup2 takes plain numbers. In this process nobody uses those that it closes.
            Errno::result(unsafe { libc::dup2(*from, *to) })?;
        }
        Ok(())
    };
    command.kill_on_drop(true);
    // SAFETY: between fork and exec `place` makes system calls only and allocates nothing.
    unsafe { command.pre_exec(place) };
    command.spawn()
}

/// A copy of a descriptor at a number that is none of the program's.
fn copy_above(descriptor: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(BEHIND))?;
    // SAFETY: the number was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const SUBJECT: Subject<'_> = Subject { namespace: "default", id: "c1" };

    /// The address of a shell with this script, whose `$DIR` is the directory, and with more of a query.
    fn shell(directory: &Path, script: &str, query: &str) -> Address {
        let script: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let directory = directory.display();
        Address::read(&format!("binary:///bin/sh?-c={script}&{query}&env.DIR={directory}")).unwrap()
    }

    #[tokio::test]
    async fn a_program_has_both_outputs_its_words_and_no_environment_but_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let script =
            "echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID ${HOME-none} $COLOUR\" \"$0\" \"$@\" >$DIR/words
            readlink /proc/self/fd/0 >$DIR/input; exec 5>&-
            cat <&3 >$DIR/out & cat <&4 >$DIR/error; wait; echo whole >>$DIR/out";
        let query = "--a=1+2&flag&env.COLOUR=blue&env.CONTAINER_ID=other";
        let address = shell(directory.path(), script, query);
        let (logger, mut outputs) = Logger::start(&address, SUBJECT).await.unwrap();
        outputs.stdout.write_all(b"to out\n").await.unwrap();
        outputs.stderr.write_all(b"to error\n").await.unwrap();
        drop(outputs);
        logger.end(Patience::USUAL).await;
        let file = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(file("words"), "default/c1 none blue --a 1 2 flag \n");
        assert_eq!((file("out").as_str(), file("error").as_str()), ("to out\nwhole\n", "to error\n"));
        assert_eq!(file("input"), "/dev/null\n");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_told_to_and_then_killed() {
        let patience =
            Patience { by_itself: Duration::from_millis(50), by_signal: Duration::from_millis(200) };
        for (trap, last) in [("echo told >>$DIR/said; exit", "told\n"), ("echo no >>$DIR/said", "no\n")] {
            let directory = tempfile::tempdir().unwrap();
            let script = format!("trap '{trap}' TERM; echo >&5; while :; do sleep 0.01; done");
            let address = shell(directory.path(), &script, "");
            let (logger, outputs) = Logger::start(&address, SUBJECT).await.unwrap();
            let pid = logger.child.id().unwrap();
            drop(outputs);
            let begin = Instant::now();
            logger.end(patience).await;
            assert!(begin.elapsed() >= patience.by_itself);
            assert_eq!(fs::read_to_string(directory.path().join("said")).unwrap(), last);
            assert!(!Path::new(&format!("/proc/{pid}")).exists());
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_or_ends_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Address::read("binary:///no/such/logger").unwrap();
        for (address, words) in [
            (missing, "/no/such/logger"),
            (shell(directory.path(), "exit 3", ""), "before it was ready: exit status: 3"),
        ] {
            let error = crate::error::chain(&Logger::start(&address, SUBJECT).await.unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }
}
