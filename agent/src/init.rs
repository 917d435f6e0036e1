//! What PID 1 of an rvm guest does, from the kernel's exec of `/init` to the power-off, read top-down.
//!
//! It mounts what every Linux program expects, does its work, reaps every orphan, and powers the guest off with an exit
//! code. It is not a service manager: nothing is restarted, and nothing is configured from files.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::kill;
use nix::unistd::{Pid, sethostname};
use rvm_config::guest_abi::GuestEvent;

use crate::console::{self, say};
use crate::port::EventPort;
use crate::reap::{Outcome, Signals};
use crate::refusal::in_one_line;
use crate::shutdown::{self, TERM_GRACE};
use crate::{command, mounts, sys};

/// Exit code when PID 1 itself fails ("internal software error" in sysexits.h).
const EXIT_FAILED: u8 = 70;

/// A guest whose file systems and console are there.
pub struct Guest {
    /// The signals of PID 1.
    pub(crate) signals: Signals,
    port: Option<EventPort>,
    started: Duration,
}

impl Guest {
    /// Tells the VMM that the guest is ready for work.
    pub(crate) fn tell_ready(&self) {
        if let Some(port) = &self.port {
            port.tell(GuestEvent::Ready);
        }
    }
}

/// The life of PID 1 around its `work`, which gives the exit code. Never returns in a guest.
pub fn main<E: Error>(work: impl FnOnce(&Guest) -> Result<u8, E>) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("rvm-agent: this is the init of an rvm guest; it runs as PID 1 only");
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|panic| {
        say(&panic.to_string());
        shutdown::power_off(EXIT_FAILED)
    }));
    let guest = match bring_up() {
        Ok(guest) => guest,
        Err(err) => fail(&err),
    };
    let code = work(&guest).unwrap_or_else(|err| fail(&err));
    let stopped = shutdown::stop_processes(&guest.signals, TERM_GRACE, |signal| {
        // Everybody but init itself. That there is nobody left is no fault.
        let _ = kill(Pid::from_raw(-1), signal);
    });
    if !stopped {
        say("powering off over a process that SIGKILL did not end");
    }
    mounts::unmount_all();
    shutdown::power_off(code)
}

/// Says why PID 1 cannot go on, and ends the guest.
fn fail(err: &dyn Error) -> ! {
    say(&in_one_line(err));
    shutdown::power_off(EXIT_FAILED)
}

fn bring_up() -> nix::Result<Guest> {
    let started = console::uptime();
    let port = EventPort::open();
    if let Some(port) = &port {
        port.tell(GuestEvent::InitStarted);
    }
    let signals = Signals::block()?;
    mounts::mount_all();
    console::take();
    warn("send Ctrl-Alt-Del to init", set_cad_enabled(false));
    warn("set the host name", sethostname("rvm"));
    warn("bring lo up", sys::set_interface_up("lo"));
    Ok(Guest { signals, port, started })
}

/// Runs the command on the kernel's command line, or a shell, to its end or to an order to shut down; gives the exit
/// code.
pub fn run_command(guest: &Guest) -> u8 {
    guest.tell_ready();
    let line = console::ready_line(guest.started, console::uptime());
    warn("write to the console", std::io::stdout().write_all(line.as_bytes()));
    // Fails where the console is no terminal; then there is no foreground.
    let owns_terminal = sys::own_terminal().is_ok();
    let cmdline = std::fs::read("/proc/cmdline").unwrap_or_default();
    let words = command::from_kernel(std::env::args_os().skip(1).collect(), &cmdline);
    let child = match command::start(&words, owns_terminal) {
        Ok(child) => child,
        Err(err) => {
            say(&in_one_line(&err));
            return err.exit_code();
        }
    };
    match guest.signals.until_ended(child.id()) {
        Outcome::Ended(status) => command::exit_code(status),
        // What was ordered was done.
        Outcome::Ordered => 0,
    }
}

/// Says what a step could not do. The guest goes on without it.
fn warn<E: std::fmt::Display>(step: &str, result: Result<(), E>) {
    if let Err(err) = result {
        say(&format!("cannot {step}: {err}"));
    }
}
