//! `rvm install`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Status;
use crate::install::{self, InstallError, Root, Step};
use crate::logging::{chain, say};

/// The exit status of an installation that failed.
const FAILED: u8 = 1;

#[derive(Args)]
pub struct InstallArgs {
    /// Remove what was installed
    #[arg(long)]
    uninstall: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The file system to install in, for packages and images
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
}

/// Does it, step by step, and says each.
pub fn run(args: &InstallArgs) -> u8 {
    match steps(args).and_then(|steps| take(&steps, args.dry_run)) {
        Ok(status) => status,
        Err(error) => {
            say(&chain(&error));
            FAILED
        }
    }
}

fn steps(args: &InstallArgs) -> Result<Vec<Step>, InstallError> {
    let root = Root::new(args.root.clone());
    match args.uninstall {
        true => install::uninstall(&root),
        false => {
            let own = Path::new("/proc/self/exe");
            let program = own.read_link().map_err(|source| InstallError::Io {
                attempt: "find the program by",
                path: own.to_owned(),
                source,
            })?;
            install::install(&root, program.parent().unwrap_or(Path::new("/")))
        }
    }
}

fn take(steps: &[Step], dry_run: bool) -> Result<u8, InstallError> {
    if steps.is_empty() {
        say("there is nothing to do");
    }
    for step in steps {
        if !dry_run {
            step.take()?;
        }
        if let Err(error) = super::print(&format!("{step}\n")) {
            say(&format!("cannot print what is done: {error}"));
            return Ok(Status::Output.into());
        }
    }
    Ok(Status::Done.into())
}
