//! One lab: a QEMU process that emulates a machine with SVM, from its start to its end.
//!
//! The lab's disks are thrown away when it ends, and it has no network, so any number can run at a time. What it
//! says on its control port goes to the caller as it comes; this module tells apart all the ways in which a lab
//! can stop saying anything.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::protocol::{Message, PORT};

/// The lab's processor: everything that TCG emulates, but what depends on XSAVE. TCG does not let KVM see a
/// guest's XSETBV, so KVM puts XCR0 back behind the guest's back, and AVX in a guest then faults at random. And without ERMS
/// and FSRM: with them kernels move memory by instructions that TCG takes a byte at a time, without them eight bytes, near
/// what hardware costs.
const CPU: &str = "max,-xsave,-avx,-avx2,-vaes,-vpclmulqdq,-fma,-f16c,-pku,-erms,-fsrm";

/// A lab that has not come up by then has hung (5 s is usual on an idle machine).
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// A lab that beats and has said nothing for so long has hung.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// A panic ends QEMU (`-no-reboot`); and a busy machine must not make the kernel doubt the emulated timer.
const KERNEL_OPTIONS: &str = "quiet panic=-1 oops=panic mitigations=off no_timer_check";

/// What hardens the host's kernel without being seen by anything that runs on it, a tenth of a test's time, emulated; and
/// timers between ticks, each of which stops the emulation twice, and KVM's wait for a guest that will soon go on, which
/// keeps its only processor from others: a fifth. Benchmarks have all of it, as hosts do.
const LEFT_OUT: &str = "init_on_alloc=0 randomize_kstack_offset=off hardened_usercopy=off psi=0 audit=0 lsm=capability \
     highres=off kvm.halt_poll_ns=0";

/// The signal that asked labs to stop; 0: none has.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// Has this thread, and those that it starts, leave to the labs the signals that concern them.
pub fn block_signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

/// What the lab is like.
#[derive(Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// The directory with vmlinux, initrd and root.img.
    pub image: PathBuf,
    pub payload: PathBuf,
    /// Extra disks by name; what is written to them is lost.
    pub disks: Vec<(String, PathBuf)>,
    /// One vCPU, and a nanosecond of the lab's time for every instruction.
    pub deterministic: bool,
    /// Ignored when deterministic.
    pub cpus: u32,
    /// MiB.
    pub memory: u64,
    pub console: Console,
    /// Wall time after which the lab is stopped; `None` for a shell.
    pub timeout: Option<Duration>,
    /// How long a lab that beats may say nothing.
    pub silence: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// To the file `console.log` of the run.
    Log,
    /// To the terminal.
    Terminal,
}

/// Who hears of messages; gives the number of a test where one asks for it.
pub type OnMessage<'a> = &'a mut dyn FnMut(Message) -> Option<usize>;

/// How a lab ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The job was done, with this status.
    Done(i32),
    /// The lab's kernel gave up; with its words.
    Panicked(String),
    /// The runner inside ended without a word; with what PID 1 said of it.
    RunnerDied(String),
    /// No sign of life for this long.
    Hung(Duration),
    /// The time for the whole run was over.
    OutOfTime(Duration),
    /// A signal asked us to stop.
    Interrupted(Signal),
    /// QEMU ended on its own; with its words.
    QemuEnded(String),
    /// The lab said what cannot be understood.
    Garbled(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(status) => write!(f, "the job ended with status {status}"),
            Self::Panicked(line) => write!(f, "the lab's kernel panicked: {line}"),
            Self::RunnerDied(line) => write!(f, "the runner inside the lab died: {line}"),
            Self::Hung(time) => write!(f, "the lab hung: no sign of life for {} s", time.as_secs()),
            Self::OutOfTime(time) => {
                write!(f, "the lab was stopped after {} s, the limit of the run", time.as_secs())
            }
            Self::Interrupted(signal) => write!(f, "stopped by {signal}"),
            Self::QemuEnded(words) => write!(f, "QEMU ended before the job was done: {words}"),
            Self::Garbled(line) => write!(f, "the lab sent a line that is no message: {line}"),
        }
    }
}

impl Machine {
    /// Runs the lab to its end; its sockets and logs go to `directory`.
    pub fn run(&self, directory: &Path, on_message: OnMessage<'_>) -> io::Result<End> {
        let socket = directory.join("control");
        let listener = UnixListener::bind(&socket)?;
        let signals = block_signals()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut qemu = self.command(directory, &socket)?.spawn()?;
        let end = self.attend(&mut qemu, &listener, &signals, directory, on_message);
        // The lab's disks are lost on purpose, so there is nothing to shut down in order.
        qemu.kill()?;
        qemu.wait()?;
        end
    }

    fn command(&self, directory: &Path, socket: &Path) -> io::Result<Command> {
        // QEMU must not outlive us, even if we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.qemu);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-m", &self.memory.to_string()]);
        if self.deterministic {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-smp", &self.cpus.to_string()]);
        }
        command.args(["-cpu", CPU]);
        command.arg("-kernel").arg(self.image.join("vmlinux"));
        command.arg("-initrd").arg(self.image.join("initrd"));
        let left_out = if self.deterministic { "" } else { LEFT_OUT };
        command.args(["-append", &format!("console=ttyS0 {KERNEL_OPTIONS} {left_out}")]);
        // The lab's init expects these two to be vda and vdb.
        let disks = [("root", self.image.join("root.img")), ("payload", self.payload.clone())];
        let extra = self.disks.iter().map(|(name, file)| (name.as_str(), file.clone()));
        for (number, (name, file)) in disks.into_iter().chain(extra).enumerate() {
            let serial = if number < 2 { name.to_owned() } else { format!("disk-{name}") };
            let file = file.display().to_string().replace(',', ",,");
            command.arg("-drive");
            command.arg(format!("id=d{number},if=none,format=raw,snapshot=on,cache=unsafe,file={file}"));
            command.arg("-device").arg(format!("virtio-blk-pci,drive=d{number},serial={serial}"));
        }
        command.arg("-chardev").arg(format!("socket,id=control,path={}", socket.display()));
        command.args(["-device", "virtio-serial-pci", "-device"]);
        command.arg(format!("virtserialport,chardev=control,name={PORT}"));
        match self.console {
            Console::Log => {
                let log = directory.join("console.log");
                command.arg("-serial").arg(format!("file:{}", log.display()));
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            Console::Terminal => {
                command.args(["-chardev", "stdio,id=console,mux=on,signal=off"]);
                command.args(["-serial", "chardev:console", "-mon", "chardev=console"]);
            }
        }
        command.stderr(File::create(directory.join("qemu.log"))?);
        Ok(command)
    }

    /// Listens to the lab until there is a reason to stop.
    fn attend(
        &self,
        qemu: &mut Child,
        listener: &UnixListener,
        signals: &SignalFd,
        directory: &Path,
        on_message: OnMessage<'_>,
    ) -> io::Result<End> {
        let start = Instant::now();
        let mut last_word = start;
        let mut up = false;
        let mut lines: Option<Lines> = None;
        loop {
            let quiet_limit = match (up, self.deterministic || self.console == Console::Terminal) {
                (false, _) => Some(BOOT_LIMIT),
                (true, false) => Some(self.silence),
                (true, true) => None,
            };
            if let Some(limit) = quiet_limit.filter(|limit| last_word.elapsed() >= *limit) {
                return Ok(End::Hung(limit));
            }
            if let Some(limit) = self.timeout.filter(|limit| start.elapsed() >= *limit) {
                return Ok(End::OutOfTime(limit));
            }
            let fd = lines.as_ref().map_or(listener.as_fd(), |lines| lines.socket.get_ref().as_fd());
            let mut fds =
                [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(1000u16))?;
            let heard = fds[0].any().unwrap_or(false);

            // What the lab said before its end comes first.
            if heard {
                match &mut lines {
                    None => lines = Some(Lines::new(listener.accept()?.0)),
                    Some(lines) => {
                        for line in lines.read()? {
                            last_word = Instant::now();
                            match serde_json::from_slice(&line) {
                                Ok(Message::Done { status }) => return Ok(End::Done(status)),
                                Ok(message) => {
                                    up |= matches!(message, Message::Up { .. });
                                    let asks = matches!(message, Message::Free);
                                    let answer = on_message(message);
                                    if asks {
                                        lines.answer(answer)?;
                                    }
                                }
                                Err(_) => {
                                    return Ok(End::Garbled(String::from_utf8_lossy(&line).into_owned()));
                                }
                            }
                        }
                    }
                }
            }
            while let Some(signal) = signals.read_signal()? {
                match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                    Some(Signal::SIGCHLD) | None => {}
                    Some(signal) => {
                        // Of several labs only one hears of it.
                        INTERRUPTED.store(signal as i32, Ordering::Relaxed);
                    }
                }
            }
            if let Ok(signal) = Signal::try_from(INTERRUPTED.load(Ordering::Relaxed)) {
                return Ok(End::Interrupted(signal));
            }
            if !heard && let Some(status) = qemu.try_wait()? {
                return why_it_ended(directory, status);
            }
            if lines.as_ref().is_some_and(|lines| lines.closed) {
                return why_it_ended(directory, qemu.wait()?);
            }
        }
    }
}

/// Looks in the logs for the reason of a lab's unexpected end.
fn why_it_ended(directory: &Path, status: ExitStatus) -> io::Result<End> {
    let console = directory.join("console.log");
    let console = if console.exists() { fs::read(console)? } else { Vec::new() };
    let console = String::from_utf8_lossy(&console);
    let line_with =
        |words: &str| console.lines().find(|line| line.contains(words)).map(|line| line.trim().to_owned());
    if let Some(line) = line_with("Kernel panic") {
        return Ok(End::Panicked(line));
    }
    if let Some(line) = line_with("lab: the runner ended") {
        return Ok(End::RunnerDied(line));
    }
    let words = fs::read_to_string(directory.join("qemu.log"))?;
    Ok(End::QemuEnded(format!("{status}; {}", words.trim())))
}

/// The control port, cut into lines.
struct Lines {
    socket: BufReader<UnixStream>,
    part: Vec<u8>,
    closed: bool,
}

impl Lines {
    fn new(socket: UnixStream) -> Self {
        Self { socket: BufReader::with_capacity(1 << 16, socket), part: Vec::new(), closed: false }
    }

    /// Answers a question. That the lab is gone is seen elsewhere.
    fn answer(&mut self, number: Option<usize>) -> io::Result<()> {
        let line = format!("{}\n", serde_json::to_string(&number)?);
        self.socket.get_mut().write_all(line.as_bytes()).or_else(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        })
    }

    /// The lines that what has arrived completes; waits if nothing has arrived.
    fn read(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let arrived = self.socket.fill_buf()?.len();
        self.closed = arrived == 0;
        let mut rest = io::Read::take(&mut self.socket, arrived as u64);
        while rest.read_until(b'\n', &mut self.part)? > 0 {
            if self.part.ends_with(b"\n") {
                lines.push(std::mem::take(&mut self.part));
            }
        }
        Ok(lines)
    }
}
