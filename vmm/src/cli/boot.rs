//! `rvm boot`: a machine from its configuration to its end.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use super::exit;
use super::merge::BootArgs;
use crate::console::{self, terminal};
use crate::run::{self, End, MainLoop};
use crate::seccomp::{Filters, ThreadKind};
use crate::timing::{Phase, Timing};
use crate::vm::{self, BuildError, Vm};
use crate::{logging, stats};
use rvm_config::VmConfig;

/// Boots the machine that `args` mean and waits for its end; gives the exit status.
pub fn run(args: BootArgs, mut timing: Timing) -> u8 {
    logging::start();
    let machine = match args.machine() {
        Ok(machine) => machine,
        Err(error) => return fail(&error, exit::of_merge(&error)),
    };
    if args.print_config {
        return print_config(&machine);
    }
    // Opened before the threads are confined: none of them may open files then.
    let trace = match args.timing.iter().flatten().next().map(File::create).transpose() {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("rvm: cannot create the trace file: {error}");
            return exit::HOST;
        }
    };
    match boot(&machine, &mut timing) {
        Ok((end, vm)) => {
            terminal::restore();
            report(&args, &end, &vm, timing, trace)
        }
        Err(error) => {
            terminal::restore();
            fail(&error, exit::of_build(&error))
        }
    }
}

fn boot(machine: &VmConfig, timing: &mut Timing) -> Result<(End, Vm), BuildError> {
    run::block_signals().map_err(BuildError::host("block signals"))?;
    let parts = vm::open(machine)?;
    let (output, input) = console::open(&machine.console).map_err(BuildError::host("open the console"))?;
    let filters = Filters::new(machine.seccomp)
        .map_err(BuildError::host("install the handler of seccomp violations"))?;
    timing.mark(Phase::Open);
    let vm = vm::build(machine, parts, output, &filters, timing)?;
    let main_loop = MainLoop::new(vm, input).map_err(BuildError::host("wait for events"))?;
    filters.confine(ThreadKind::Main)();
    timing.mark(Phase::FirstInstruction);
    main_loop.run().map_err(BuildError::host("wait for events"))
}

/// Says how the machine ended, where that is not what the user asked for, and what was asked to be printed.
fn report(args: &BootArgs, end: &End, vm: &Vm, mut timing: Timing, trace: Option<File>) -> u8 {
    let record = vm.events().record();
    let after_boot = [(Phase::KernelToInit, record.init_started), (Phase::InitToReady, record.ready)];
    for (phase, when) in after_boot {
        if let Some(when) = when {
            timing.mark_at(phase, when);
        }
    }
    match end {
        End::PowerOff(_) | End::Quit => {}
        End::Reset => eprintln!("rvm: the guest asked for a reset; the VM ends"),
        End::Panic => eprintln!("rvm: the guest's kernel panicked; its last lines on the console say why"),
        End::TripleFault => eprintln!("rvm: the guest crashed (triple fault)"),
        End::Signal(signal) => eprintln!("rvm: ended by {signal}"),
        End::Failed(error) => eprintln!("rvm: {}", logging::chain(error)),
    }
    if args.stats {
        eprint!("{}", stats::collect(vm));
    }
    match trace {
        None if args.timing.is_some() => eprint!("{timing}"),
        None => {}
        Some(file) => {
            if let Err(error) = write_trace(file, &timing) {
                eprintln!("rvm: cannot write the trace: {error}");
                return exit::HOST;
            }
        }
    }
    exit::of_end(end)
}

fn write_trace(mut file: File, timing: &Timing) -> std::io::Result<()> {
    file.write_all(&serde_json::to_vec(&timing.chrome_trace())?)
}

fn print_config(machine: &VmConfig) -> u8 {
    match serde_json::to_string_pretty(machine) {
        Ok(json) => {
            println!("{json}");
            0
        }
        Err(error) => fail(&error, exit::HOST),
    }
}

/// One line: what was attempted, on what, why, what to do.
fn fail(error: &(dyn Error + 'static), status: u8) -> u8 {
    eprintln!("rvm: {}", logging::chain(error));
    status
}
