//! PID 1 of an rvm guest: from the kernel's exec of `/init` to the power-off, read top-down.
//!
//! It mounts what every Linux program expects, runs one command (or a shell), reaps every orphan, and
//! powers the guest off with the command's exit code. It is not a service manager: nothing is restarted,
//! and nothing is configured from files.

mod archive;
mod command;
mod console;
mod containers;
mod descriptor;
#[cfg(test)]
mod init_tests;
mod io;
mod listen;
mod mounts;
mod net;
mod port;
mod reap;
mod reaper;
mod refusal;
mod sandbox;
mod server;
mod shutdown;
mod storage;
mod streams;
mod sys;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::kill;
use nix::unistd::{Pid, sethostname};
use rvm_agent::container;
use rvm_agent_proto::SERVE_WORD;
use rvm_config::guest_abi::GuestEvent;

use crate::console::say;
use crate::port::EventPort;
use crate::reap::{Outcome, Signals};
use crate::shutdown::TERM_GRACE;

/// Exit code when the agent itself fails ("internal software error" in sysexits.h).
const EXIT_AGENT_FAILED: u8 = 70;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let words: Vec<_> = std::env::args_os().skip(1).collect();
        match words.split_first() {
            Some((word, _)) if word == container::CHILD => return container::child(),
            Some((word, rest)) if word == archive::child::CHILD => return archive::child::run(rest),
            _ => {}
        }
        eprintln!("rvm-agent: this is the init of an rvm guest; it runs as PID 1 only");
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|panic| {
        say(&panic.to_string());
        shutdown::power_off(EXIT_AGENT_FAILED)
    }));
    let code = boot_and_run().unwrap_or_else(|err| {
        say(&err.to_string());
        EXIT_AGENT_FAILED
    });
    shutdown::power_off(code)
}

/// Brings the guest up, runs the command to its end or serves the host, and gives the exit code.
fn boot_and_run() -> Result<u8, Box<dyn Error>> {
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

    let ready = || {
        if let Some(port) = port {
            port.tell(GuestEvent::Ready);
        }
        // A host that is served knows from the port; each byte on the console is a VM exit.
        if !serves() {
            let line = console::ready_line(started, console::uptime());
            warn("write to the console", std::io::stdout().write_all(line.as_bytes()));
        }
    };
    let code = match serves() {
        true => server::serve(&signals, ready).map(|()| 0)?,
        false => {
            ready();
            // Fails where the console is no terminal; then there is no foreground.
            let owns_terminal = sys::own_terminal().is_ok();
            run(&signals, owns_terminal)
        }
    };
    let stopped = shutdown::stop_processes(&signals, TERM_GRACE, |signal| {
        // Everybody but init itself. That there is nobody left is no fault.
        let _ = kill(Pid::from_raw(-1), signal);
    });
    if !stopped {
        say("powering off over a process that SIGKILL did not end");
    }
    mounts::unmount_all();
    Ok(code)
}

/// Whether the kernel's command line has the word by which the agent serves.
fn serves() -> bool {
    let word = SERVE_WORD.split_once('=');
    word.is_some_and(|(name, value)| std::env::var_os(name).is_some_and(|is| is == value))
}

/// Runs the command to its end, or to an order to shut down, and gives the exit code.
fn run(signals: &Signals, owns_terminal: bool) -> u8 {
    let cmdline = std::fs::read("/proc/cmdline").unwrap_or_default();
    let words = command::from_kernel(std::env::args_os().skip(1).collect(), &cmdline);
    let child = match command::start(&words, owns_terminal) {
        Ok(child) => child,
        Err(err) => {
            say(&match err.source() {
                Some(source) => format!("{err}: {source}"),
                None => err.to_string(),
            });
            return err.exit_code();
        }
    };
    match signals.until_ended(child.id()) {
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
