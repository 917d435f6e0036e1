//! `rvm-init`: PID 1 of a guest that runs one command.

use std::process::ExitCode;

use rvm_agent::init;

fn main() -> ExitCode {
    init::main(|guest| Ok::<_, std::convert::Infallible>(init::run_command(guest)))
}
