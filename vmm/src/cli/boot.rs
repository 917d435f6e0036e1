//! `rvm boot`: a machine from its configuration to its end.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::exit::{self, Status};
use super::merge::BootArgs;
use crate::console::{Console, terminal};
use crate::control::Control;
use crate::jail::Jail;
use crate::logging::{self, say};
use crate::output_file::OutputFile;
use crate::privileges::Confinement;
use crate::run::{self, End, MainLoop};
use crate::seccomp::{Filters, ThreadKind};
use crate::stats;
use crate::timing::{Phase, Timing};
use crate::vm::{self, BuildError, Vm};
use rvm_config::VmConfig;
use rvm_config::control::{Ended, Reason};

/// Boots the machine that `args` mean and waits for its end; gives the exit status.
pub fn run(args: BootArgs, mut timing: Timing) -> u8 {
    logging::start();
    logging::never_wait();
    let machine = match args.machine() {
        Ok(machine) => machine,
        Err(error) => return fail(&error, exit::of_merge(&error)),
    };
    if args.print_config {
        return print_config(&machine);
    }
    let trace = args.timing.as_ref().and_then(Option::as_deref);
    let mut control = match machine.control.as_ref().map(Control::open).transpose() {
        Ok(control) => control,
        Err(error) => return fail(&error, Status::Control),
    };
    let booted = boot(&machine, trace, control.as_mut(), &mut timing);
    terminal::restore();
    let ended = match booted {
        Ok(booted) => report(&args, booted, timing),
        Err(error) => {
            let (message, status) = (Some(logging::chain(&error)), fail(&error, exit::of_build(&error)));
            Ended { reason: Reason::NotStarted, status, message, console: None }
        }
    };
    let status = ended.status;
    if let Some(control) = control {
        control.end(ended);
    }
    status
}

/// A machine after its end, and where the trace of its boot goes.
struct Booted {
    end: End,
    vm: Vm,
    trace: Option<File>,
}

fn boot(
    machine: &VmConfig,
    trace: Option<&Path>,
    mut control: Option<&mut Control>,
    timing: &mut Timing,
) -> Result<Booted, BuildError> {
    run::block_signals().map_err(BuildError::host("block signals"))?;
    let jail = Jail::prepare().map_err(BuildError::host("make namespaces for the VM"))?;
    let mut parts = vm::open(machine)?;
    let trace = trace.map(|path| OutputFile::open("the trace", path)).transpose()?;
    let console = Console::open(&machine.console)?;
    if let Some(control) = &mut control {
        control.capture(console.tail());
    }
    let output = console.writer().map_err(BuildError::host("open the console"))?;
    let filters = Filters::new(machine.seccomp)
        .map_err(BuildError::host("install the handler of seccomp violations"))?;
    let shares_files = !machine.shares.is_empty();
    let privileges = jail.enter(&mut parts, shares_files).map_err(BuildError::host("give up privileges"))?;
    let confinement = Confinement::new(privileges, filters);
    timing.mark(Phase::Open);
    let vm = vm::build(machine, parts, output, &confinement, timing)?;
    // The user's files and terminal are left alone until nothing can fail any more that is likely to.
    let trace = trace.map(OutputFile::begin).transpose().map_err(BuildError::host("empty the trace file"))?;
    let console = console.begin().map_err(BuildError::host("set up the console"))?;
    let main_loop =
        MainLoop::new(machine, vm, console, control).map_err(BuildError::host("wait for events"))?;
    confinement.confine(ThreadKind::Main)();
    timing.mark(Phase::FirstInstruction);
    let (end, vm) = main_loop.run().map_err(BuildError::host("wait for events"))?;
    Ok(Booted { end, vm, trace })
}

/// Says how the machine ended, where that is not what the user asked for, and what was asked to be printed.
fn report(args: &BootArgs, booted: Booted, mut timing: Timing) -> Ended {
    let Booted { end, vm, trace } = booted;
    let record = vm.events().record();
    let after_boot = [(Phase::KernelToInit, record.init_started), (Phase::InitToReady, record.ready)];
    for (phase, when) in after_boot {
        if let Some(when) = when {
            timing.mark_at(phase, when);
        }
    }
    let message = message(&end);
    if let Some(message) = &message {
        say(message);
    }
    if args.stats {
        logging::tell(&stats::Table(&stats::collect(&vm)).to_string());
    }
    let ended = Ended { reason: exit::reason(&end), status: exit::of_end(&end), message, console: None };
    match trace {
        None if args.timing.is_some() => logging::tell(&timing.to_string()),
        None => {}
        Some(file) => {
            if let Err(error) = write_trace(file, &timing) {
                say(&format!("cannot write the trace: {error}"));
                return Ended { status: Status::Output.into(), ..ended };
            }
        }
    }
    ended
}

/// What there is to say of an end that is not what the user asked for.
fn message(end: &End) -> Option<String> {
    Some(match end {
        End::PowerOff(_) | End::Quit => return None,
        End::Reset => "the guest asked for a reset; the VM ends".into(),
        End::Panic => "the guest's kernel panicked; its last lines on the console say why".into(),
        End::TripleFault => "the guest crashed (triple fault)".into(),
        End::Abandoned => "the other end of the control socket was closed; the VM ends".into(),
        End::Signal(signal) => format!("ended by {signal}"),
        End::Failed(error) => logging::chain(error),
    })
}

fn write_trace(mut file: File, timing: &Timing) -> io::Result<()> {
    file.write_all(&serde_json::to_vec(&timing.chrome_trace())?)
}

fn print_config(machine: &VmConfig) -> u8 {
    if let Err(error) = machine.validate() {
        return fail(&error, exit::of_config(&error));
    }
    // Fails on a path that is not UTF-8, which JSON cannot carry.
    let json = serde_json::to_string_pretty(machine).map_err(io::Error::other);
    match json.and_then(|json| super::print(&format!("{json}\n"))) {
        Ok(()) => Status::Done.into(),
        Err(error) => {
            say(&format!("cannot print the configuration: {error}"));
            Status::Output.into()
        }
    }
}

/// One line: what was attempted, on what, why, what to do.
fn fail(error: &(dyn Error + 'static), status: Status) -> u8 {
    say(&logging::chain(error));
    status.into()
}
