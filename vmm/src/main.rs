//! The `rvm` command.

use std::process::ExitCode;

use rvm::cli::{self, exit::Status};
use rvm::console::terminal;
use rvm::logging;
use rvm::timing::Timing;

fn main() -> ExitCode {
    let timing = Timing::start();
    std::panic::set_hook(Box::new(|panic| {
        terminal::restore();
        logging::say(&format!("a bug in rvm, please report it: {panic}"));
        // At once, and without a core dump, which would have the guest's memory in it.
        std::process::exit(u8::from(Status::Bug).into());
    }));
    cli::main(timing).into()
}
