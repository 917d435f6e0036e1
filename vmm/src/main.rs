//! The `rvm` command.

use std::process::ExitCode;

use rvm::cli;
use rvm::console::terminal;
use rvm::timing::Timing;

fn main() -> ExitCode {
    let timing = Timing::start();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        report(panic);
    }));
    cli::main(timing).into()
}
