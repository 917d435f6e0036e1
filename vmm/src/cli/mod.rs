//! The `rvm` command line. Each subcommand is a module; each gives the process's exit status.

mod attach;
mod boot;
pub mod bug;
mod container;
mod doctor;
pub mod exit;
mod images;
mod install;
mod merge;
mod run;
mod usage;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// Put rvm where containerd and Docker find it, and tell them of it
    Install(install::InstallArgs),
    /// The process around a sandbox; `run` starts it
    #[command(hide = true)]
    Supervise(SuperviseArgs),
}

#[derive(Args)]
struct SuperviseArgs {
    /// The sandbox's
    directory: PathBuf,
}

/// The command that the words mean.
fn parse() -> Result<Command, clap::Error> {
    match quickly() {
        Some(command) => Ok(command),
        None => Cli::try_parse().map(|cli| cli.command),
    }
}

/// The same for the commands that are started most, three of them by one `rvm run`: without the grammar of all the
/// others, which takes 0.6 lab ms and 200 KiB to make. Gives none where there is anything to say about the words.
fn quickly() -> Option<Command> {
    match std::env::args_os().nth(1)?.to_str()? {
        "boot" => alone().map(|args| Command::Boot(Box::new(args))),
        "run" => alone().map(|args| Command::Run(Box::new(args))),
        "exec" => alone().map(Command::Exec),
        "supervise" => alone().map(Command::Supervise),
        _ => None,
    }
}

/// The words behind the command's, by its own grammar.
fn alone<A: Args>() -> Option<A> {
    let words = std::env::args_os().skip(1);
    let found = A::augment_args(clap::Command::new("rvm")).try_get_matches_from(words).ok()?;
    A::from_arg_matches(&found).ok()
}

/// Runs the command line of this process; gives its exit status.
pub fn main(timing: Timing) -> u8 {
    match parse() {
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
        Ok(Command::Install(args)) => install::run(&args),
        Ok(Command::Supervise(args)) => supervisor::main(args.directory),
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
