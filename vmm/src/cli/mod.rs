//! The `rvm` command line. Each subcommand is a module; each gives the process's exit status.

mod boot;
pub mod bug;
mod doctor;
pub mod exit;
mod images;
mod merge;
mod usage;

use std::io::{self, Write};

use clap::{Parser, Subcommand};

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
        Err(error) => usage::report(&error),
    }
}

/// Prints `text` to standard output. A reader that is gone has read all it wanted.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
