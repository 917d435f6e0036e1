//! The end of a process that met a bug of its own: a panic, on whichever thread.

use std::panic;

use super::exit::Status;
use crate::console::terminal;
use crate::logging;

/// From now on a panic is told in one line, and ends the process with [`Status::Bug`]: at once, whatever the
/// other threads do, and without a core dump, which would have the guest's memory in it.
pub fn end_on_panic() {
    panic::set_hook(Box::new(|panic| {
        terminal::restore();
        logging::say(&format!("a bug in rvm, please report it: {panic}"));
        std::process::exit(u8::from(Status::Bug).into());
    }));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::process::Command;

    use nix::sys::termios::tcgetattr;

    use super::*;
    use crate::console::terminal::RawTerminal;
    use crate::seccomp::{Filters, ThreadKind};

    #[test]
    fn a_panic_of_a_confined_thread_is_told_and_leaves_the_terminal_as_it_was() {
        // In a process of its own, which it ends.
        if let Some(kind) = std::env::var_os("RVM_TEST_PANIC") {
            let kind = if kind == "vcpu" { ThreadKind::Vcpu } else { ThreadKind::Rng };
            let _raw = RawTerminal::enter().unwrap();
            end_on_panic();
            let confine = Filters::new(true).unwrap().confine(kind);
            let thread = std::thread::spawn(|| {
                confine();
                panic!("as a test");
            });
            thread.join().unwrap();
        }
        for kind in ["vcpu", "rng"] {
            let pty = nix::pty::openpty(None, None).unwrap();
            let before = tcgetattr(&pty.master).unwrap();
            let name = "a_panic_of_a_confined_thread_is_told_and_leaves_the_terminal_as_it_was";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &format!("cli::bug::tests::{name}"), "--nocapture", "--test-threads=1"])
                .env("RVM_TEST_PANIC", kind)
                .env("RUST_BACKTRACE", "1")
                .stdin(pty.slave.try_clone().unwrap())
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.starts_with("rvm: a bug in rvm, please report it: panicked at "), "{said}");
            assert!(said.contains("as a test") && said.lines().count() == 1, "{said}");
            assert_eq!(output.status.code(), Some(95));
            assert_eq!(tcgetattr(&pty.master).unwrap(), before);
        }
    }
}
