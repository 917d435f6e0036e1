//! The `rvm` command.

use std::process::ExitCode;

use rvm::cli;
use rvm::file_limit;
use rvm::timing::Timing;

fn main() -> ExitCode {
    let timing = Timing::start();
    cli::bug::end_on_panic();
    file_limit::is_an_error();
    cli::main(timing).into()
}
