//! `rvm stop`, `kill`, `rm`, `pause`, `unpause`, `wait`, `port`.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::super::attach::{AttachError, Attached};
use super::{ContainerError, ask, for_each, report, running, signals};
use crate::state::{Directory, Phase, Runtime};
use crate::supervisor::STATUS_FAILED;
use crate::supervisor::protocol::Request;

/// Containers by their names or ids.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct NameArgs {
    /// Name or id of a container
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
}

impl NameArgs {
    /// As given.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// The flags of `rvm stop`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct StopArgs {
    /// Seconds to wait before the container is killed
    #[arg(short, long, alias = "timeout", value_name = "SECONDS", default_value_t = 10)]
    time: u64,
    /// Signal that asks it to end [default: the container's]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    #[command(flatten)]
    containers: NameArgs,
}

/// The flags of `rvm kill`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    containers: NameArgs,
}

/// The flags of `rvm rm`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct RmArgs {
    /// Kill it first if it runs; no error if there is none
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    containers: NameArgs,
}

/// Asks containers to end, and kills those that do not in time.
pub fn stop(args: &StopArgs) -> u8 {
    let signal = match args.signal.as_deref().map(signals::parse).transpose() {
        Ok(signal) => signal,
        Err(error) => return report(Err(ContainerError::Value(error))),
    };
    for_each(&args.containers.names, |runtime, name| {
        let (directory, _) = runtime.find(name)?;
        match directory.status()?.phase {
            // As with Docker: it is as it should be.
            Phase::Exited => Ok(()),
            _ => end(&directory, &Request::Stop { signal, timeout: args.time }),
        }
    })
}

/// Has a supervisor take its sandbox down. One that ended meanwhile has done so, and may have removed all trace of it.
fn end(directory: &Directory, request: &Request) -> Result<(), ContainerError> {
    let over = || directory.status().map_or(!directory.path().exists(), |status| status.phase.is_over());
    match connect(directory, request).and_then(Attached::reply) {
        Ok(_) => Ok(()),
        Err(AttachError::NotRunning | AttachError::Silent) if over() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a request of a supervisor, which may be just about to come.
fn connect(directory: &Directory, request: &Request) -> Result<Attached, AttachError> {
    let coming = || directory.status().is_ok_and(|status| status.phase == Phase::Created);
    loop {
        match Attached::connect(&directory.control(), request) {
            Err(AttachError::NotRunning) if coming() => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// Sends a signal to containers.
pub fn kill(args: &KillArgs) -> u8 {
    match signals::parse(&args.signal) {
        Ok(signal) => for_each(&args.containers.names, |runtime, name| {
            ask(runtime, name, &Request::Signal(signal)).map(drop)
        }),
        Err(error) => report(Err(ContainerError::Value(error))),
    }
}

/// Removes containers.
pub fn rm(args: &RmArgs) -> u8 {
    for_each(&args.containers.names, |runtime, name| {
        let (directory, record) = match runtime.find(name) {
            Err(crate::state::StateError::Unknown(_)) if args.force => return Ok(()),
            found => found?,
        };
        // One whose state cannot be read can be removed all the same.
        let over = directory.status().map_or(args.force, |status| status.phase.is_over());
        match (over, args.force) {
            (true, _) => {}
            (false, true) => match end(&directory, &Request::Stop { signal: None, timeout: 0 }) {
                // Its own supervisor may remove it.
                Ok(()) if record.remove => return Ok(()),
                ended => ended?,
            },
            (false, false) => {
                let is = "is running; stop it first (`rvm stop`), or remove it by force (`rvm rm -f`)";
                return Err(ContainerError::Phase { name: name.to_owned(), is });
            }
        }
        directory.remove()?;
        reclaim(runtime)
    })
}

/// Gives back what supervisors that were killed left on the host.
fn reclaim(runtime: &Runtime) -> Result<(), ContainerError> {
    super::super::block_on(rvm_sandbox::network::reclaim(runtime.root()))
        .map_err(ContainerError::host("start a runtime"))?
        .map_err(|error| ContainerError::Value(crate::logging::chain(&error)))
}

/// Freezes containers.
pub fn pause(args: &NameArgs) -> u8 {
    for_each(&args.names, |runtime, name| ask(runtime, name, &Request::Pause).map(drop))
}

/// Lets frozen containers go on.
pub fn unpause(args: &NameArgs) -> u8 {
    for_each(&args.names, |runtime, name| ask(runtime, name, &Request::Resume).map(drop))
}

/// Waits for the end of containers and prints their exit codes.
pub fn wait(args: &NameArgs) -> u8 {
    let wait = |runtime: &Runtime, name: &str| {
        let (directory, _) = runtime.find(name)?;
        match connect(&directory, &Request::Wait).and_then(Attached::exit) {
            Ok(exit) => Ok(exit.code),
            Err(AttachError::Refused { status, .. }) => Ok(status),
            Err(AttachError::NotRunning | AttachError::Silent) => {
                Ok(directory.status()?.exit_code.unwrap_or(STATUS_FAILED))
            }
            Err(error) => Err(ContainerError::from(error)),
        }
    };
    report(Runtime::open().map_err(ContainerError::from).and_then(|runtime| {
        for name in &args.names {
            let code = wait(&runtime, name)?;
            super::super::print(&format!("{code}\n")).map_err(ContainerError::host("print"))?;
        }
        Ok(0)
    }))
}

/// Prints the ports of the host that lead into containers.
pub fn port(args: &NameArgs) -> u8 {
    report(Runtime::open().map_err(ContainerError::from).and_then(|runtime| {
        for name in &args.names {
            let (directory, _) = running(&runtime, name)?;
            let lines: String = directory
                .status()?
                .published
                .iter()
                .map(|port| format!("{}/{} -> {}\n", port.guest_port, port.protocol, port.host))
                .collect();
            super::super::print(&lines).map_err(ContainerError::host("print"))?;
        }
        Ok(0)
    }))
}
