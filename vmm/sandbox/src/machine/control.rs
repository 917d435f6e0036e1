//! The task that holds a VMM's control socket: what the VMM tells becomes progress and answers, orders become requests.
//!
//! The VMM is no guest, but it may have been taken over by one: what it says is bounded, and a word out of turn is the
//! end of the machine.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rvm_config::control::{
    CONTROL_VERSION, Ended, Event, MAX_CONTROL_PACKET, Message, Outcome, Reason, Request,
};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};

use super::{End, MachineError, Order, Phase, Progress};

/// Most bytes of a VMM's standard error that are kept: the last ones, which say how it ended.
const MAX_WORDS: usize = 4 << 10;

/// Serves the socket until the VMM has ended, and reports how when its process is gone.
pub(super) async fn drive(
    mut vmm: Child,
    socket: OwnedFd,
    mut inbox: mpsc::Receiver<Order>,
    report: watch::Sender<Progress>,
) {
    let mut phase = Phase::Setup;
    let reached = |reached| {
        phase = reached;
        report.send_replace(Progress::Reached(reached));
    };
    // All the time: a VMM that nobody reads drops its words.
    let words = tokio::spawn(last_words(vmm.stderr.take()));
    // A read of a SOCK_SEQPACKET socket gives a packet, and a write sends one.
    let served = match UnixStream::from_std(socket.into()) {
        Ok(socket) => serve(socket, &mut inbox, reached).await,
        Err(error) => Err(error),
    };
    // Whatever happened: nobody directs it any more. One that has ended takes no signal.
    if !matches!(served, Ok(Served::Ended(_))) {
        vmm.start_kill().ok();
    }
    // Fails only where the runtime ends, and this with it.
    let words = words.await.unwrap_or_default();
    // Fails only for a process that is no child of ours.
    vmm.wait().await.ok();
    let end = match served {
        Ok(Served::Ended(ended)) => End { phase, ended },
        Ok(Served::Killed) => End { phase, ended: Ended { reason: Reason::Stopped, ..failed(None) } },
        // It closed its end without a word: it crashed, or was killed. What it said before is all there is.
        Ok(Served::Closed) => broken(phase, words),
        Err(error) => End { phase, ended: failed(Some(format!("its control socket: {error}"))) },
    };
    report.send_replace(Progress::Ended(Box::new(end)));
}

/// How it came that the socket is served no more.
enum Served {
    /// The VMM said how it ended.
    Ended(Ended),
    /// It ended without saying so.
    Closed,
    /// It is to be killed.
    Killed,
}

async fn serve(
    socket: UnixStream,
    inbox: &mut mpsc::Receiver<Order>,
    mut reached: impl FnMut(Phase),
) -> io::Result<Served> {
    let (packets, sink) = socket.into_split();
    let mut asked: VecDeque<(u64, oneshot::Sender<Outcome>)> = VecDeque::new();
    let mut next = 1;
    let mut buffer = vec![0; MAX_CONTROL_PACKET];
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Ask { command, descriptors, answer }) => {
                    send(&sink, &serde_json::to_vec(&Request { id: next, command })?, descriptors).await?;
                    asked.push_back((next, answer));
                    next += 1;
                }
                // `None`: every Machine is dropped.
                Some(Order::Kill) | None => return Ok(Served::Killed),
            },
            length = read(&packets, &mut buffer) => match length? {
                0 => return Ok(Served::Closed),
                length => match serde_json::from_slice(buffer.get(..length).unwrap_or_default())? {
                    Message::Hello { version: CONTROL_VERSION } => reached(Phase::Kernel),
                    Message::Hello { version } => {
                        return Err(io::Error::other(format!("it speaks version {version}")));
                    }
                    Message::Event(Event::InitStarted) => reached(Phase::Init),
                    Message::Event(Event::Ready) => reached(Phase::Running),
                    Message::Event(Event::Ended(ended)) => return Ok(Served::Ended(ended)),
                    Message::Answer { id, outcome } => {
                        let Some((_, answer)) = asked.pop_front().filter(|(asked, _)| id == Some(*asked)) else {
                            return Err(io::Error::other("an answer that nobody asked for"));
                        };
                        // Whoever asked may have lost patience.
                        drop(answer.send(outcome));
                    }
                },
            },
        }
    }
}

/// Sends a packet, with the descriptors it is about, which are the VMM's then.
async fn send(sink: &OwnedWriteHalf, packet: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let with = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let socket: &UnixStream = sink.as_ref();
    loop {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(packet)], with, flags, None)?)
        });
        match sent {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            sent => return sent.map(drop),
        }
    }
}

/// The next packet; none of its bytes at the end. To tokio's own `read` what is shorter than the buffer has emptied a stream, and
/// of a packet that waits behind it nothing would be heard.
async fn read(socket: &OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read(buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // A peer that died with packets of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            result => return result,
        }
    }
}

/// Reads what a VMM says until it ends; gives the last of it, in whole lines.
async fn last_words(words: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut words) = words else { return String::new() };
    let (mut last, mut cut) = (Vec::new(), false);
    let mut buffer = [0; MAX_WORDS];
    // What was read until an error is all there is.
    while let Ok(length @ 1..) = words.read(&mut buffer).await {
        last.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let surplus = last.len().saturating_sub(MAX_WORDS);
        cut |= surplus > 0;
        last.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&last);
    let text = match text.split_once('\n') {
        Some((_, whole)) if cut => whole,
        _ => &text,
    };
    text.trim().trim_start_matches("rvm: ").to_owned()
}

fn failed(message: Option<String>) -> Ended {
    Ended { reason: Reason::Failed, status: 0, message, console: None }
}

/// The end of a VMM that did not say how it ended.
pub(super) fn broken(phase: Phase, words: String) -> End {
    let message = if words.is_empty() { "its process is gone (killed?)".to_owned() } else { words };
    End { phase, ended: failed(Some(message)) }
}

/// The task ends with the machine, and says so before.
pub(super) fn task_gone() -> MachineError {
    MachineError::Ended(Box::new(broken(Phase::Running, String::new())))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::process::Command;

    use super::*;

    /// The last words of a program that says what `script` has it say.
    async fn words_of(script: &str) -> String {
        let mut program = Command::new("sh");
        program.args(["-c", script]).stderr(Stdio::piped());
        let mut program = program.spawn().expect("a shell");
        let words = last_words(program.stderr.take()).await;
        assert!(program.wait().await.expect("its end").success());
        words
    }

    #[tokio::test]
    async fn a_packet_that_waits_behind_another_is_heard_of() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket");
        let ours = UnixStream::from_std(OwnedFd::from(ours).into()).expect("a socket");
        let (packets, _sink) = ours.into_split();
        for packet in ["one", "and two"] {
            theirs.send(packet.as_bytes()).expect("room");
        }
        let mut buffer = [0; 64];
        for packet in ["one", "and two"] {
            let read = tokio::time::timeout(std::time::Duration::from_secs(60), read(&packets, &mut buffer));
            assert_eq!(read.await.expect("it is there").expect("a packet"), packet.len());
        }
    }

    #[tokio::test]
    async fn of_what_a_vmm_says_the_end_is_kept() {
        assert_eq!(words_of("").await, "");
        assert_eq!(words_of("echo 'rvm: ended by a test' >&2").await, "ended by a test");
        // More than a pipe takes.
        let flood =
            words_of("yes 'rvm: warn: a guest can cause this' | head -c 200000 >&2; echo end >&2").await;
        assert!(
            flood.starts_with("warn: a guest can cause this\nrvm: ") && flood.ends_with("end"),
            "{flood}"
        );
        assert!((MAX_WORDS - 100..MAX_WORDS).contains(&flood.len()), "{}", flood.len());
    }
}
