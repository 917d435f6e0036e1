//! The control socket: what whoever started a VM hears of it, and what that one can ask.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use rvm_config::MemorySize;
use rvm_config::control::{
    Command, Ended, Event, MAX_CONTROL_PACKET, Message, Outcome, Reason, Request, Stats,
};

use tempfile::TempDir;

use super::image::{self, Elf};
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
    let too_much =
        "balloon cannot take 65 MiB of 128 MiB: 64 MiB must be left; take less, or give the VM more memory";
    let too_much = Outcome::Refused(too_much.into());
    assert_eq!(supervisor.ask(Command::Balloon { size: MemorySize::from_mib(65) }), too_much);

    let Outcome::Console(words) = supervisor.ask(Command::ConsoleTail) else { panic!("the console") };
    assert!(words.contains("rvm-agent ready: "), "{words}");

    assert_eq!(supervisor.ask(Command::Stop), Outcome::Done);
    let ended = supervisor.ended();
    assert_eq!((ended.reason, ended.status, ended.message), (Reason::Stopped, 0, None));
    let ran = running.end();
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "", ""));
}

const DRIVER_FEATURES: u32 = 0x20;
const DRIVER_FEATURES_SEL: u32 = 0x24;
const QUEUE_NUM: u32 = 0x38;
const QUEUE_READY: u32 = 0x44;
const STATUS: u32 = 0x70;
const QUEUE_DESC_LOW: u32 = 0x80;

/// A kernel that sets up the first virtio device with a queue outside of memory, again and again: each time rvm has
/// something to say.
fn complaint_after_complaint(directory: &TempDir) -> PathBuf {
    // Registers of virtio-mmio (virtio 1.2, section 4.2.2) and what is written there.
    let writes = [
        (STATUS, 0),
        (STATUS, 1),
        (STATUS, 3),
        // VIRTIO_F_VERSION_1.
        (DRIVER_FEATURES_SEL, 1),
        (DRIVER_FEATURES, 1),
        (STATUS, 0xb),
        (QUEUE_NUM, 8),
        (QUEUE_DESC_LOW, 0xf000_0000_u32),
        (QUEUE_READY, 1),
        (STATUS, 0xf),
    ];
    // mov dword [rbx + register], value
    let writes = writes.map(|(register, value)| [&[0xc7, 0x83][..], &word(register), &word(value)].concat());
    let writes = writes.concat();
    #[rustfmt::skip]
    let map = [
        0xb8, 0x83, 0, 0, 0xd0,                     // mov eax, 0xd0000083: a large page, where the devices are
        0x48, 0x89, 0x04, 0x25, 0x00, 0xb4, 0, 0,   // mov [0xb400], rax: in the table that maps 256 MiB
        0xbb, 0, 0, 0, 0x10,                        // mov ebx, 256 MiB
    ];
    let again = -i32::try_from(writes.len() + 5).unwrap();
    // jmp to the first write
    let code = [&map[..], &writes, &[0xe9], &again.to_le_bytes()].concat();
    let path = directory.path().join("kernel");
    fs::write(&path, image::elf(&Elf { code, ..Elf::default() })).unwrap();
    path
}

fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

#[test]
fn a_guest_that_fills_the_log_while_nobody_reads_it_is_held_and_ends() {
    let directory = TempDir::new().unwrap();
    let kernel = complaint_after_complaint(&directory).display().to_string();
    let (mut supervisor, mut running) =
        Supervisor::boot(&["--console", "none", "--cpus", "2", "--kernel", &kernel]);
    running.fill_error();
    while supervisor.stats().exits.mmio_writes < 2000 {}
    // The main thread has something to say as well.
    running.signal(Signal::SIGUSR1);
    assert_eq!(supervisor.ask(Command::Pause), Outcome::Done);
    let held = supervisor.stats();
    assert_eq!(supervisor.ask(Command::Resume), Outcome::Done);
    while supervisor.stats().exits.mmio_writes < held.exits.mmio_writes + 100 {}
    // Whoever reads again is told what there was.
    running.error.wait_for(" messages dropped\nrvm: warn: ");
    running.error.wait_for(" device: queue 0 lies outside of memory\n");
    running.fill_error();
    running.signal(Signal::SIGTERM);
    let ended = supervisor.ended();
    assert_eq!((ended.reason, ended.status), (Reason::Signal, 143));
    assert_eq!(running.end().status, Some(143));
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
