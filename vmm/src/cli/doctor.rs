//! `rvm doctor`.

use clap::Args;

use crate::doctor;

#[derive(Args)]
pub struct DoctorArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report; the status is 0 where VMs can run.
pub fn run(args: &DoctorArgs) -> u8 {
    let report = doctor::examine();
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("rvm doctor: cannot write the report as JSON: {error}");
                return super::exit::HOST;
            }
        }
    } else {
        println!("{report}");
    }
    report.exit_code()
}
