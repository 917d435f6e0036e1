//! The `rvm` command line. Each subcommand is a module; each gives the process's exit status.

mod attach;
mod boot;
pub mod bug;
mod container;
mod doctor;
pub mod exit;
mod images;
mod merge;
mod run;
mod usage;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::supervisor;
use crate::timing::Timing;

/// Containers that start like containers and are isolated like virtual machines.
#[derive(Parser)]
#[command(name = "rvm", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a virtual machine
    Boot(Box<merge::BootArgs>),
    /// Tell whether this host can run virtual machines, and what to do if not
    Doctor(doctor::DoctorArgs),
    /// Fetch an image from a registry
    Pull(images::PullArgs),
    /// List the images on this machine
    Images(images::ImagesArgs),
    /// Remove images
    Rmi(images::RmiArgs),
    /// Take images from an archive
    Load(images::LoadArgs),
    /// Write images to an archive
    Save(images::SaveArgs),
    /// Remove images that nobody uses
    Prune(images::PruneArgs),
    /// Run a command in a new container, in a virtual machine of its own
    Run(Box<run::RunArgs>),
    /// Run a command in a container that runs
    Exec(container::ExecArgs),
    /// List containers
    Ps(container::PsArgs),
    /// Print what a container wrote
    Logs(container::LogsArgs),
    /// Ask containers to end, and kill those that do not in time
    Stop(container::StopArgs),
    /// Send a signal to containers
    Kill(container::KillArgs),
    /// Remove containers that have ended
    Rm(container::RmArgs),
    /// Freeze containers
    Pause(container::NameArgs),
    /// Let frozen containers go on
    Unpause(container::NameArgs),
    /// Wait for the end of containers and print their exit codes
    Wait(container::NameArgs),
    /// Print everything that is known of containers, as JSON
    Inspect(container::NameArgs),
    /// Print what containers use
    Stats(container::StatsArgs),
    /// Print the processes of a container
    Top(container::TopArgs),
    /// Copy files between the host and a container
    Cp(container::CpArgs),
    /// Print the ports of the host that lead into containers
    Port(container::NameArgs),
    /// The process around a sandbox; `run` starts it
    #[command(hide = true)]
    Supervise {
        /// The sandbox's
        directory: PathBuf,
    },
}

/// Runs the command line of this process; gives its exit status.
pub fn main(timing: Timing) -> u8 {
    match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Boot(args)) => boot::run(*args, timing),
        Ok(Command::Doctor(args)) => doctor::run(&args),
        Ok(Command::Pull(args)) => images::pull(&args),
        Ok(Command::Images(args)) => images::images(&args),
        Ok(Command::Rmi(args)) => images::rmi(&args),
        Ok(Command::Load(args)) => images::load(&args),
        Ok(Command::Save(args)) => images::save(&args),
        Ok(Command::Prune(args)) => images::prune(&args),
        Ok(Command::Run(args)) => run::run(*args),
        Ok(Command::Exec(args)) => container::exec(&args),
        Ok(Command::Ps(args)) => container::ps(&args),
        Ok(Command::Logs(args)) => container::logs(&args),
        Ok(Command::Stop(args)) => container::stop(&args),
        Ok(Command::Kill(args)) => container::kill(&args),
        Ok(Command::Rm(args)) => container::rm(&args),
        Ok(Command::Pause(args)) => container::pause(&args),
        Ok(Command::Unpause(args)) => container::unpause(&args),
        Ok(Command::Wait(args)) => container::wait(&args),
        Ok(Command::Inspect(args)) => container::inspect(&args),
        Ok(Command::Stats(args)) => container::stats(&args),
        Ok(Command::Top(args)) => container::top(&args),
        Ok(Command::Cp(args)) => container::cp(&args),
        Ok(Command::Port(args)) => container::port(&args),
        Ok(Command::Supervise { directory }) => supervisor::main(directory),
        Err(error) => usage::report(&error),
    }
}

/// Runs `work` to its end, on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

/// Prints `text` to standard output. A reader that is gone has read all it wanted.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
