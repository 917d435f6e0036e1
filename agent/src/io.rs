//! Standard streams of processes: what their pipes and terminals are to be, and the copying between those and the
//! streams that the host opened.
//!
//! Each direction is a task of its own: who does not read stops who writes to it, and nobody else. The end of a
//! direction goes on to the other side: the host's half-close is the end of a process's standard input; the
//! end of its output closes the host's stream.
//!
//! When a process has ended, what it wrote is there to be read: it is copied to the last byte, and then the stream is
//! closed, even if others still have the pipe.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::container::Stdio;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use crate::descriptor::Descriptor;
use crate::reaper::Ending;

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

/// What became of some bytes.
enum Moved {
    /// They were written but for these.
    But(Vec<u8>),
    /// There were none: the end.
    End,
    /// Nobody takes them.
    Refused,
}

/// Writes what goes now.
fn pass_on(bytes: &[u8], to: &Descriptor) -> Moved {
    if bytes.is_empty() {
        return Moved::End;
    }
    match to.try_write(bytes) {
        Ok(written) => Moved::But(bytes.get(written..).unwrap_or_default().to_vec()),
        Err(_) => Moved::Refused,
    }
}

/// Writes what did not go at once; `false` when there is no more to come, or the other side takes no more.
async fn finish(moved: io::Result<Moved>, to: &Descriptor) -> bool {
    match moved {
        Ok(Moved::But(rest)) => to.write_all(&rest).await.is_ok(),
        // A master whose terminal nobody has open gives an error (EIO), which is its end.
        Ok(Moved::End | Moved::Refused) | Err(_) => false,
    }
}

/// From the host to a process, until the host has no more or the process takes no more.
async fn carry_in(host: &Descriptor, process: &Descriptor) {
    while finish(host.read_with(|bytes| pass_on(bytes, process)).await, process).await {}
}

/// From a process to the host, until there is no more or the host takes no more.
async fn carry_out(process: &Descriptor, host: &Descriptor, mut ending: Ending) {
    let mut more = true;
    while more {
        let moved = tokio::select! {
            biased;
            _ = ending.wait() => break,
            moved = process.read_with(|bytes| pass_on(bytes, host)) => moved,
        };
        more = finish(moved, host).await;
    }
    let mut left = LEFT_BEHIND;
    while more && left > 0 {
        let moved = process.try_read_with(|bytes| {
            left = left.saturating_sub(bytes.len());
            pass_on(bytes, host)
        });
        more = finish(moved.map_err(io::Error::from), host).await;
    }
    // Fails where the host has closed it already.
    let _ = host.shutdown(Shutdown::Write);
}

/// Reads to the end, for nobody.
async fn discard(process: &Descriptor) {
    while let Ok(true) = process.read_with(|bytes| !bytes.is_empty()).await {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Streams, connect_pipes, connect_terminal, pipes};
    use crate::container::Stdio;
    use crate::descriptor::Descriptor;
    use crate::init_tests::beside_reaper;
    use crate::reaper::{Ending, Reaper};
    use crate::sys;
    use nix::pty::openpty;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use tokio::io::AsyncReadExt;

    /// The host's end of a stream, and the agent's.
    fn stream() -> (Descriptor, Descriptor) {
        let (host, agent) = UnixStream::pair().unwrap();
        (Descriptor::new(host.into()).unwrap(), Descriptor::new(agent.into()).unwrap())
    }

    /// A shell with these streams.
    fn shell(reaper: &Reaper, script: &str, streams: Streams) -> Ending {
        let (stdio, ends) = pipes(&streams).unwrap();
        let Stdio::Descriptors { stdin, stdout, stderr } = stdio else { panic!("these are pipes") };
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(stdin).stdout(stdout).stderr(stderr);
        sys::in_own_group(&mut command, false);
        let ending = reaper.watch(command.spawn().unwrap().id());
        connect_pipes(ends, streams, &ending).unwrap();
        ending
    }

    /// All that comes.
    async fn read_all(mut host: Descriptor) -> Vec<u8> {
        let mut all = Vec::new();
        host.read_to_end(&mut all).await.unwrap();
        all
    }

    #[test]
    fn output_comes_to_its_last_byte_however_late_the_host_reads() {
        let code = beside_reaper(|reaper| async move {
            let ((host, stdout), (errors, stderr)) = (stream(), stream());
            let streams = Streams { stdin: None, stdout: Some(stdout), stderr: Some(stderr) };
            // The last 60 kB fit in a pipe: the process has ended before they are read.
            let script = "head -c 1000000 /dev/zero; echo last; echo error >&2; exit 3";
            let mut ending = shell(&reaper, script, streams);
            let all = read_all(host).await;
            assert_eq!((all.len(), &all[1_000_000..]), (1_000_005, &b"last\n"[..]));
            assert_eq!(read_all(errors).await, b"error\n");
            ending.wait().await.code
        });
        assert_eq!(code, 3);
    }

    #[test]
    fn what_a_process_left_in_its_pipe_is_not_lost_when_it_has_ended() {
        let code = beside_reaper(|reaper| async move {
            let (host, stdout) = stream();
            let mut ending = shell(
                &reaper,
                "head -c 60000 /dev/zero",
                Streams { stdout: Some(stdout), ..Streams::default() },
            );
            ending.wait().await;
            assert_eq!(read_all(host).await.len(), 60_000);
            0
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn the_hosts_half_close_is_the_end_of_standard_input() {
        let code = beside_reaper(|reaper| async move {
            let ((input, stdin), (host, stdout)) = (stream(), stream());
            let streams = Streams { stdin: Some(stdin), stdout: Some(stdout), stderr: None };
            let mut ending = shell(&reaper, "cat; exit 4", streams);
            input.write_all(b"through").await.unwrap();
            input.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(host).await, b"through");
            ending.wait().await.code
        });
        assert_eq!(code, 4);
    }

    #[test]
    fn a_host_that_does_not_read_stops_nobody_but_its_own_process() {
        let code = beside_reaper(|reaper| async move {
            let ((idle, flooded), (host, stdout)) = (stream(), stream());
            let flood = Streams { stdout: Some(flooded), ..Streams::default() };
            let flooding = shell(&reaper, "exec cat /dev/zero", flood);
            let other = Streams { stdout: Some(stdout), ..Streams::default() };
            let mut ending = shell(&reaper, "seq 100000 | tail -n 1; exit 5", other);
            assert_eq!(read_all(host).await, b"100000\n");
            let code = ending.wait().await.code;
            assert_eq!(flooding.now(), None);
            drop(idle);
            code
        });
        assert_eq!(code, 5);
    }

    #[test]
    fn a_process_whose_output_nobody_takes_is_told_by_a_signal() {
        let code = beside_reaper(|reaper| async move {
            let (host, stdout) = stream();
            let streams = Streams { stdout: Some(stdout), ..Streams::default() };
            let mut ending = shell(&reaper, "exec cat /dev/zero", streams);
            drop(host);
            ending.wait().await.code
        });
        assert_eq!(code, 128 + 13);
    }

    #[test]
    fn the_stream_ends_with_the_process_whoever_else_has_the_pipe() {
        let code = beside_reaper(|reaper| async move {
            let (host, stdout) = stream();
            let streams = Streams { stdout: Some(stdout), ..Streams::default() };
            let mut ending = shell(&reaper, "sleep 1000 & echo $!; exit 6", streams);
            let pid = String::from_utf8(read_all(host).await).unwrap();
            let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            ending.wait().await.code
        });
        assert_eq!(code, 6);
    }

    #[test]
    fn a_terminal_takes_input_and_gives_all_output_and_goes_on_when_nobody_reads() {
        let code = beside_reaper(|reaper| async move {
            let ((input, stdin), (mut host, stdout)) = (stream(), stream());
            let terminal = openpty(None, None).unwrap();
            let slave = || terminal.slave.try_clone().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", "read line; echo got $line; read line; seq 100000; exit 7"]);
            command.stdin(slave()).stdout(slave()).stderr(slave());
            sys::in_own_group(&mut command, false);
            let mut ending = reaper.watch(command.spawn().unwrap().id());
            let streams = Streams { stdin: Some(stdin), stdout: Some(stdout), stderr: None };
            connect_terminal(terminal.master, streams, &ending).unwrap();

            input.write_all(b"one\n").await.unwrap();
            let mut echoed = [0; 14];
            host.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed, b"one\r\ngot one\r\n");
            drop(host);
            input.write_all(b"two\n").await.unwrap();
            ending.wait().await.code
        });
        assert_eq!(code, 7);
    }
}
