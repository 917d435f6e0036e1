//! The `rvm` command.

use std::process::ExitCode;

use rvm::cli;
use rvm::timing::Timing;

fn main() -> ExitCode {
    let timing = Timing::start();
    cli::bug::end_on_panic();
    cli::main(timing).into()
}
