//! The main thread while the machine runs: console input, signals, and the end.
//!
//! It waits for a few descriptors and does nothing else; the machine runs on the other threads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vmm_sys_util::epoll::EventSet;

use crate::console::escape::{self, Command};
use crate::console::{Ends, Input, Typed};
use crate::devices::machine_event::EventRecord;
use crate::event_loop::Poller;
use crate::stats;
use crate::vcpu::{VcpuEnd, VcpuError, VcpuThread};
use crate::vm::Vm;

/// How a machine ended.
#[derive(Debug)]
pub enum End {
    /// The guest switched it off; with the exit code that the guest's first process told, if it did.
    PowerOff(Option<u8>),
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// The guest's kernel crashed so that its processor shut down.
    TripleFault,
    /// The user ended it at the console.
    Quit,
    /// This process was told to end.
    Signal(Signal),
    /// KVM cannot go on.
    Failed(VcpuError),
}

const SIGNALS: u64 = 0;
const EVENTS: u64 = 1;
const VCPUS: u64 = 2;
const SERIAL: u64 = 3;
const INPUT: u64 = 4;
const OUTPUT: u64 = 5;

/// Keys that are kept for a guest that does not read them yet, so that the escape key behind them is heard.
const TYPE_AHEAD: usize = 64 << 10;

/// The signals that [`MainLoop`] takes.
fn signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1])
}

/// Blocks the main loop's signals: to be called before any thread is started, so that all inherit it and the
/// signals are the main loop's alone.
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

/// The main thread's view of a running machine.
pub struct MainLoop {
    vm: Vm,
    input: Option<Input>,
    /// Typed, and not yet the guest's.
    typed: VecDeque<u8>,
    output: Option<File>,
    signals: SignalFd,
    poller: Poller,
    paused: bool,
    watching_input: bool,
    watching_output: bool,
}

impl MainLoop {
    /// A loop for `vm`, whose console has these ends.
    pub fn new(vm: Vm, console: Ends) -> io::Result<Self> {
        let Ends { input, output } = console;
        let poller = Poller::new()?;
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        poller.add(&signals, SIGNALS, EventSet::IN)?;
        poller.add(vm.events().wake(), EVENTS, EventSet::IN)?;
        poller.add(vm.vcpu_ended(), VCPUS, EventSet::IN)?;
        poller.add(vm.serial().attention(), SERIAL, EventSet::IN)?;
        let mut this = Self {
            vm,
            input,
            typed: VecDeque::new(),
            output,
            signals,
            poller,
            paused: false,
            watching_input: false,
            watching_output: false,
        };
        this.watch_input(true);
        Ok(this)
    }

    /// Lets the machine run until it ends; gives how, and the machine, stopped.
    pub fn run(mut self) -> io::Result<(End, Vm)> {
        self.vm.resume();
        let end = loop {
            if let Some(end) = self.turn()? {
                break end;
            }
        };
        self.vm.pause();
        self.flush_output();
        if !matches!(end, End::Quit | End::Signal(_)) {
            self.drain_output()?;
        }
        Ok((end, self.vm))
    }

    /// Waits until the guest's last words are taken, or a signal says that nobody will.
    fn drain_output(&mut self) -> io::Result<()> {
        for event in [self.vm.events().wake(), self.vm.vcpu_ended(), self.vm.serial().attention()] {
            self.poller.remove(event)?;
        }
        self.watch_input(false);
        while self.watching_output {
            for (token, _) in self.poller.wait(-1)? {
                if token == SIGNALS && self.on_signal()?.is_some() {
                    return Ok(());
                }
                self.flush_output();
            }
        }
        Ok(())
    }

    /// Waits once, and does what there is to do.
    fn turn(&mut self) -> io::Result<Option<End>> {
        for (token, _) in self.poller.wait(-1)? {
            let end = match token {
                SIGNALS => self.on_signal()?,
                EVENTS => self.on_event(),
                VCPUS => self.on_vcpu_end(),
                SERIAL => self.on_serial(),
                OUTPUT => {
                    self.flush_output();
                    None
                }
                _ => self.on_input(),
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    fn on_signal(&mut self) -> io::Result<Option<End>> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
            match Signal::try_from(number)? {
                Signal::SIGUSR1 => self.print_stats(),
                signal => return Ok(Some(End::Signal(signal))),
            }
        }
        Ok(None)
    }

    fn on_event(&mut self) -> Option<End> {
        // Taken before the record is read: what is reported in between wakes again.
        self.vm.events().wake().read().ok();
        let EventRecord { reset, power_off, panic, exit, init_started: _, ready: _ } =
            self.vm.events().record();
        // A panic is followed by a reset: the panic is what happened.
        match (panic, power_off, reset) {
            (Some(_), _, _) => Some(End::Panic),
            (_, Some(_), _) => Some(End::PowerOff(exit.map(|(code, _)| code))),
            (_, _, Some(_)) => Some(End::Reset),
            (None, None, None) => None,
        }
    }

    fn on_vcpu_end(&mut self) -> Option<End> {
        // An end that the guest asked for comes first: its processors may stumble afterwards.
        if let Some(end) = self.on_event() {
            return Some(end);
        }
        self.vm.vcpus_mut().iter_mut().filter_map(VcpuThread::take_end).find_map(|end| match end {
            VcpuEnd::TripleFault => Some(End::TripleFault),
            VcpuEnd::Failed(error) => Some(End::Failed(error)),
            VcpuEnd::Stopped => None,
        })
    }

    fn on_serial(&mut self) -> Option<End> {
        self.vm.serial().attention().read().ok();
        self.flush_output();
        self.pass_input_on();
        self.watch_input(true);
        None
    }

    /// Sends what the guest wrote, and waits for the other end where that takes no more.
    fn flush_output(&mut self) {
        let blocked = {
            let mut serial = self.vm.serial();
            if serial.output_blocked() {
                serial.flush();
            }
            serial.output_blocked()
        };
        let Some(output) = self.output.as_ref().filter(|_| blocked != self.watching_output) else {
            return;
        };
        let changed = match blocked {
            true => self.poller.add(output, OUTPUT, EventSet::OUT),
            false => self.poller.remove(output),
        };
        // What cannot be waited for is a file, which always takes more.
        self.watching_output = blocked && changed.is_ok();
    }

    /// Reads input: from a terminal in any case, from elsewhere as long as the guest has room for it.
    fn on_input(&mut self) -> Option<End> {
        let room = match self.input.as_ref().is_some_and(Input::is_terminal) {
            true => TYPE_AHEAD.saturating_sub(self.typed.len()),
            false => self.vm.serial().free_space(),
        };
        let Some(input) = self.input.as_mut().filter(|_| room > 0) else {
            self.watch_input(false);
            return None;
        };
        let Typed { bytes, commands, ended } = input.read(room);
        self.typed.extend(bytes);
        self.pass_input_on();
        if ended {
            self.watch_input(false);
            self.input = None;
        }
        commands.into_iter().find_map(|command| self.on_command(command))
    }

    /// Gives the guest what it has room for now; the rest when [`Self::on_serial`] hears of more.
    fn pass_input_on(&mut self) {
        while !self.typed.is_empty() {
            let taken = self.vm.serial().enqueue(self.typed.make_contiguous());
            if taken == 0 {
                return;
            }
            self.typed.drain(..taken);
        }
    }

    fn on_command(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Quit => return Some(End::Quit),
            Command::Help => say(escape::HELP),
            Command::Stats => self.print_stats(),
            Command::Pause => {
                self.paused = !self.paused;
                if self.paused {
                    self.vm.pause()
                } else {
                    self.vm.resume()
                }
                say(if self.paused { "\r\n[paused; Ctrl-a p goes on]\r\n" } else { "\r\n[running]\r\n" });
            }
        }
        None
    }

    fn watch_input(&mut self, watch: bool) {
        let Some(input) = self.input.as_ref().filter(|_| watch != self.watching_input) else {
            return;
        };
        let changed = if watch {
            self.poller.add(input.descriptor(), INPUT, EventSet::IN)
        } else {
            self.poller.remove(input.descriptor())
        };
        match changed {
            Ok(()) => self.watching_input = watch,
            // A plain file cannot be waited for, and needs no waiting: it always has its next byte.
            Err(_) if watch => {
                self.watching_input = false;
                self.read_plain_file();
            }
            Err(_) => {}
        }
    }

    /// Gives the guest what fits now; [`Self::on_serial`] comes back for more when there is room.
    fn read_plain_file(&mut self) {
        while let Some(input) = &mut self.input {
            let space = self.vm.serial().free_space();
            if space == 0 {
                return;
            }
            let Typed { bytes, ended, .. } = input.read(space);
            self.vm.serial().enqueue(&bytes);
            if ended {
                self.input = None;
            }
        }
    }

    fn print_stats(&self) {
        say(&stats::collect(&self.vm).to_string().replace('\n', "\r\n"));
    }
}

/// A word of the VMM's own, to standard error; a closed one takes none.
fn say(text: &str) {
    io::stderr().write_all(text.as_bytes()).ok();
}
