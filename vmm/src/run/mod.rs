//! The main thread while the machine runs: console, control socket, signals, and the end.
//!
//! It waits for a few descriptors and does nothing else; the machine runs on the other threads.

mod pump;

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rvm_config::VmConfig;
use vmm_sys_util::epoll::EventSet;

use crate::console::Ends;
use crate::console::escape::{self, Command};
use crate::control::{Control, Served};
use crate::devices::machine_event::EventRecord;
use crate::event_loop::Poller;
use crate::logging;
use crate::stats;
use crate::vcpu::{VcpuEnd, VcpuError, VcpuThread};
use crate::vm::Vm;
use pump::Pump;

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
    /// The user ended it, at the console or by the control socket.
    Quit,
    /// Whoever holds the other end of the control socket is gone.
    Abandoned,
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
const CONTROL: u64 = 6;
const ANSWERS: u64 = 7;

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
pub struct MainLoop<'a> {
    machine: &'a VmConfig,
    vm: Vm,
    console: Pump,
    control: Option<&'a mut Control>,
    signals: SignalFd,
    poller: Poller,
    /// Answers wait for standard error to take them.
    answers_wait: bool,
}

impl<'a> MainLoop<'a> {
    /// A loop for `vm`, which was made of `machine`, with these ends of its console.
    pub fn new(
        machine: &'a VmConfig,
        vm: Vm,
        console: Ends,
        control: Option<&'a mut Control>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        poller.add(&signals, SIGNALS, EventSet::IN)?;
        poller.add(vm.events().wake(), EVENTS, EventSet::IN)?;
        poller.add(vm.vcpu_ended(), VCPUS, EventSet::IN)?;
        poller.add(vm.serial().attention(), SERIAL, EventSet::IN)?;
        if let Some(control) = &control {
            poller.add(control.socket(), CONTROL, EventSet::IN)?;
        }
        let mut console = Pump::new(console);
        console.watch_input(&vm, &poller, true);
        Ok(Self { machine, vm, console, control, signals, poller, answers_wait: false })
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
        self.console.flush_output(&self.vm, &self.poller);
        if !matches!(end, End::Quit | End::Abandoned | End::Signal(_)) {
            self.drain_output()?;
        }
        Ok((end, self.vm))
    }

    /// Waits until the guest's last words are taken, or a signal says that nobody will.
    fn drain_output(&mut self) -> io::Result<()> {
        for event in [self.vm.events().wake(), self.vm.vcpu_ended(), self.vm.serial().attention()] {
            self.poller.remove(event)?;
        }
        if let Some(control) = &self.control {
            self.poller.remove(control.socket())?;
        }
        self.console.watch_input(&self.vm, &self.poller, false);
        while self.console.output_waits() {
            for (token, _) in self.poller.wait(-1)? {
                if token == SIGNALS && self.on_signal()?.is_some() {
                    return Ok(());
                }
                self.finish_answers();
                self.console.flush_output(&self.vm, &self.poller);
            }
        }
        Ok(())
    }

    /// Waits once, and does what there is to do.
    fn turn(&mut self) -> io::Result<Option<End>> {
        for (token, _) in self.poller.wait(-1)? {
            // Before the guest's output, which would take all the room.
            self.finish_answers();
            let end = match token {
                ANSWERS => None,
                SIGNALS => self.on_signal()?,
                EVENTS => self.on_event()?,
                VCPUS => self.on_vcpu_end()?,
                SERIAL => {
                    self.console.on_serial(&self.vm, &self.poller);
                    None
                }
                OUTPUT => {
                    self.console.flush_output(&self.vm, &self.poller);
                    None
                }
                CONTROL => self.on_control()?,
                _ => self.on_input(),
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        self.finish_answers();
        Ok(None)
    }

    /// Writes answers that standard error did not take, and waits for it where it still does not.
    fn finish_answers(&mut self) {
        let wait = !logging::finish();
        if wait != self.answers_wait {
            let changed = match wait {
                true => self.poller.add(&io::stderr(), ANSWERS, EventSet::OUT),
                false => self.poller.remove(&io::stderr()),
            };
            // What cannot be waited for is tried again with the next event.
            self.answers_wait = wait && changed.is_ok();
        }
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

    fn on_event(&mut self) -> io::Result<Option<End>> {
        // Taken before the record is read: what is reported in between wakes again.
        self.vm.events().wake().read().ok();
        let record = self.vm.events().record();
        if let Some(control) = &mut self.control {
            control.tell_of(&record);
            control.watch(&self.poller, CONTROL)?;
        }
        let EventRecord { reset, power_off, panic, exit, init_started: _, ready: _ } = record;
        // A panic is followed by a reset: the panic is what happened.
        Ok(match (panic, power_off, reset) {
            (Some(_), _, _) => Some(End::Panic),
            (_, Some(_), _) => Some(End::PowerOff(exit.map(|(code, _)| code))),
            (_, _, Some(_)) => Some(End::Reset),
            (None, None, None) => None,
        })
    }

    fn on_vcpu_end(&mut self) -> io::Result<Option<End>> {
        // An end that the guest asked for comes first: its processors may stumble afterwards.
        if let Some(end) = self.on_event()? {
            return Ok(Some(end));
        }
        let mut ends = self.vm.vcpus_mut().iter_mut().filter_map(VcpuThread::take_end);
        Ok(ends.find_map(|end| match end {
            VcpuEnd::TripleFault => Some(End::TripleFault),
            VcpuEnd::Failed(error) => Some(End::Failed(error)),
            VcpuEnd::Stopped => None,
        }))
    }

    fn on_input(&mut self) -> Option<End> {
        let commands = self.console.on_input(&self.vm, &self.poller);
        commands.into_iter().find_map(|command| self.on_command(command))
    }

    fn on_command(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Quit => return Some(End::Quit),
            Command::Help => logging::answer(escape::HELP),
            Command::Stats => self.print_stats(),
            Command::Pause if self.vm.is_running() => {
                self.vm.pause();
                logging::answer("\r\n[paused; Ctrl-a p goes on]\r\n");
            }
            Command::Pause => {
                self.vm.resume();
                logging::answer("\r\n[running]\r\n");
            }
        }
        None
    }

    /// One request, or room for what the other end was not ready to hear.
    fn on_control(&mut self) -> io::Result<Option<End>> {
        let Some(control) = &mut self.control else {
            return Ok(None);
        };
        let served = control.serve(self.machine, &mut self.vm);
        control.watch(&self.poller, CONTROL)?;
        Ok(match served {
            Served::GoOn => None,
            Served::Stop => Some(End::Quit),
            Served::Closed => Some(End::Abandoned),
        })
    }

    fn print_stats(&self) {
        logging::answer(&stats::Table(&stats::collect(&self.vm)).to_string().replace('\n', "\r\n"));
    }
}
