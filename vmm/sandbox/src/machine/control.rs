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
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr};
use tokio::sync::{mpsc, oneshot, watch};

use super::{End, MachineError, Order, Phase, Progress};

/// Most bytes of a VMM's standard error that are kept.
const MAX_WORDS: u64 = 4 << 10;

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
    // A read of a SOCK_SEQPACKET socket gives a packet, and a write sends one; tokio need not know.
    let served = match UnixStream::from_std(socket.into()) {
        Ok(socket) => serve(socket, &mut inbox, reached).await,
        Err(error) => Err(error),
    };
    // Whatever happened: nobody directs it any more. One that has ended takes no signal.
    if !matches!(served, Ok(Served::Ended(_))) {
        vmm.start_kill().ok();
    }
    let words = last_words(vmm.stderr.take()).await;
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
    let (mut packets, sink) = socket.into_split();
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
            length = read(&mut packets, &mut buffer) => match length? {
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

/// The next packet; none of its bytes at the end.
async fn read(socket: &mut OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    match socket.read(buffer).await {
        // A peer that died with packets of ours unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        result => result,
    }
}

async fn last_words(words: Option<ChildStderr>) -> String {
    let Some(words) = words else { return String::new() };
    let mut bytes = Vec::new();
    // What was read until an error is all there is.
    words.take(MAX_WORDS).read_to_end(&mut bytes).await.ok();
    String::from_utf8_lossy(&bytes).trim().trim_start_matches("rvm: ").to_owned()
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
