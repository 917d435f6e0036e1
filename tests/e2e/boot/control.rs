//! The control socket: what whoever started a VM hears of it, and what that one can ask.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use rvm_config::MemorySize;
use rvm_config::control::{
    Command, Ended, Event, MAX_CONTROL_PACKET, Message, Outcome, Reason, Request, Stats,
};

use super::run::{PATIENCE, Running, boot};

/// Who started the VM.
pub struct Supervisor {
    socket: OwnedFd,
    asked: u64,
}

impl Supervisor {
    /// Starts `rvm boot` with these arguments, its standard input being the control socket: no console may read it.
    #[track_caller]
    pub fn boot(arguments: &[&str]) -> (Self, Running) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, rvms) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let mut command = boot(&[&["--control", "fd=0"], arguments].concat());
        command.stdin(rvms);
        let running = Running::start(command);
        let this = Self { socket, asked: 0 };
        assert_eq!(this.next(), Some(Message::Hello { version: 1 }));
        (this, running)
    }

    /// The next packet; `None` when the VMM is gone.
    #[track_caller]
    fn next(&self) -> Option<Message> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        assert!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap() > 0, "the VMM is silent");
        let mut packet = vec![0; MAX_CONTROL_PACKET];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap() {
            0 => None,
            length => Some(serde_json::from_slice(&packet[..length]).unwrap()),
        }
    }

    fn send(&self, packet: &[u8]) {
        assert_eq!(send(self.socket.as_raw_fd(), packet, MsgFlags::empty()), Ok(packet.len()));
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        assert_eq!(self.next(), Some(Message::Event(Event::InitStarted)));
        assert_eq!(self.next(), Some(Message::Event(Event::Ready)));
    }

    #[track_caller]
    pub fn ask(&mut self, command: Command) -> Outcome {
        self.ask_with(command, Vec::new())
    }

    /// The same about descriptors.
    #[track_caller]
    pub fn ask_with(&mut self, command: Command, descriptors: Vec<OwnedFd>) -> Outcome {
        self.asked += 1;
        let request = serde_json::to_vec(&Request { id: self.asked, command }).unwrap();
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[] } else { &rights[..] };
        let packet = [IoSlice::new(&request)];
        sendmsg::<()>(self.socket.as_raw_fd(), &packet, rights, MsgFlags::empty(), None).unwrap();
        match self.next() {
            Some(Message::Answer { id, outcome }) if id == Some(self.asked) => outcome,
            other => panic!("an answer, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn stats(&mut self) -> Stats {
        match self.ask(Command::Stats) {
            Outcome::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// The end that is told last.
    #[track_caller]
    pub fn ended(&self) -> Ended {
        let Some(Message::Event(Event::Ended(ended))) = self.next() else { panic!("the end") };
        assert_eq!(self.next(), None);
        ended
    }
}

#[test]
fn a_vm_is_watched_and_directed_until_it_is_stopped() {
    let (mut supervisor, running) = Supervisor::boot(&["--console", "captured", "--", "sleep", "1000"]);
    supervisor.wait_ready();

    assert_eq!(supervisor.ask(Command::Pause), Outcome::Done);
    let held = supervisor.stats();
    assert_eq!(supervisor.stats(), held, "nothing happens in a VM that is held");
    assert!(held.exits.port_writes > 10 && held.memory > 1 << 20, "{held:?}");
    assert_eq!(held.devices.iter().map(|device| &device.device[..]).collect::<Vec<_>>(), ["balloon", "rng"]);
    assert_eq!(supervisor.ask(Command::Resume), Outcome::Done);

    assert_eq!(supervisor.ask(Command::Balloon { size: MemorySize::from_mib(16) }), Outcome::Done);
    while supervisor.stats().balloon != Some(16 << 20) {}
    let too_much = Outcome::Refused("balloon cannot take 65 MiB of 128 MiB: 64 MiB must be left".into());
    assert_eq!(supervisor.ask(Command::Balloon { size: MemorySize::from_mib(65) }), too_much);

    let Outcome::Console(words) = supervisor.ask(Command::ConsoleTail) else { panic!("the console") };
    assert!(words.contains("rvm-agent ready: "), "{words}");

    assert_eq!(supervisor.ask(Command::Stop), Outcome::Done);
    let ended = supervisor.ended();
    assert_eq!((ended.reason, ended.status, ended.message), (Reason::Stopped, 0, None));
    let ran = running.end();
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "", ""));
}

#[test]
fn a_packet_that_is_no_request_does_no_harm() {
    let (mut supervisor, running) = Supervisor::boot(&["--console", "none", "--", "sleep", "1000"]);
    supervisor.wait_ready();
    for packet in [&b"{"[..], b"null", br#"{"id": 1, "do": "dance"}"#, &[b'['; MAX_CONTROL_PACKET + 1]] {
        supervisor.send(packet);
        assert!(matches!(
            supervisor.next(),
            Some(Message::Answer { id: None, outcome: Outcome::Refused(_) })
        ));
    }
    let refused = "cannot give the console's last words: it is not captured";
    assert_eq!(supervisor.ask(Command::ConsoleTail), Outcome::Refused(refused.into()));
    assert_eq!(supervisor.ask(Command::Stop), Outcome::Done);
    assert_eq!(running.end().status, Some(0));
}

#[test]
fn the_end_is_told_with_its_reason_and_the_last_words() {
    for (script, reason, status, word) in [
        ("echo farewell; exit 7", Reason::Exited, 7, "farewell"),
        ("poweroff -f", Reason::PowerOff, 0, ""),
        (
            "echo c >/proc/sysrq-trigger",
            Reason::Panic,
            91,
            "Kernel panic - not syncing: sysrq triggered crash",
        ),
    ] {
        let (supervisor, running) = Supervisor::boot(&["--console", "captured", "--", "sh", "-c", script]);
        supervisor.wait_ready();
        let ended = supervisor.ended();
        assert_eq!((ended.reason, ended.status), (reason, status), "{ended:?}");
        assert!(ended.console.unwrap().contains(word), "{script}");
        assert_eq!(ended.message.is_some(), reason == Reason::Panic);
        assert_eq!(running.end().status, Some(status.into()));
    }
}

#[test]
fn a_signal_is_told_as_the_end_and_one_that_kills_as_the_end_of_the_socket() {
    let (supervisor, running) = Supervisor::boot(&["--console", "none", "--", "sleep", "1000"]);
    supervisor.wait_ready();
    running.signal(Signal::SIGTERM);
    let ended = supervisor.ended();
    assert_eq!((ended.reason, ended.status), (Reason::Signal, 143));

    let (supervisor, running) = Supervisor::boot(&["--console", "none", "--", "sleep", "1000"]);
    supervisor.wait_ready();
    running.signal(Signal::SIGKILL);
    assert_eq!(supervisor.next(), None);
}

#[test]
fn the_vm_ends_with_whoever_started_it() {
    // Before it is up, and after; running, and held.
    for (ready, held) in [(false, false), (true, false), (true, true)] {
        let (mut supervisor, running) = Supervisor::boot(&["--console", "captured", "--", "sleep", "1000"]);
        if ready {
            supervisor.wait_ready();
        }
        if held {
            assert_eq!(supervisor.ask(Command::Pause), Outcome::Done);
        }
        drop(supervisor);
        let ran = running.end();
        assert_eq!(ran.error, "rvm: the other end of the control socket was closed; the VM ends\n");
        assert_eq!(ran.status, Some(96));
    }
}
