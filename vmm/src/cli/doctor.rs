//! `rvm doctor`.

use std::io;

use clap::Args;

use super::exit::Status;
use crate::doctor;
use crate::logging::say;

#[derive(Args)]
pub struct DoctorArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report; the status is 0 where VMs can run.
pub fn run(args: &DoctorArgs) -> u8 {
    let report = doctor::examine();
    let text = if args.json { serde_json::to_string_pretty(&report) } else { Ok(report.to_string()) };
    match text.map_err(io::Error::other).and_then(|text| super::print(&format!("{text}\n"))) {
        Ok(()) => report.exit_code(),
        Err(error) => {
            say(&format!("cannot print the report: {error}"));
            Status::Output.into()
        }
    }
}
