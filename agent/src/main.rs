//! `rvm-agent`: PID 1 of a guest that containers run in.

use std::process::ExitCode;

fn main() -> ExitCode {
    rvm_agent::agent()
}
