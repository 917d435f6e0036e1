//! The console: standard streams of the agent and of the command, and the agent's few words.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::sys::termios::tcdrain;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Makes the console the standard input, output and error; where there is none, /dev/null.
///
/// The kernel gave init a console already, but one opened in the initramfs: /dev, now mounted over it,
/// does not know it, and programs that ask for the name of their terminal fail.
pub fn take() {
    let open = |path: &str| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let console = open("/dev/console").or_else(|_| open("/dev/null"));
    let result = console.and_then(|console| {
        dup2_stdin(&console)?;
        dup2_stdout(&console)?;
        dup2_stderr(&console)?;
        Ok(())
    });
    if let Err(err) = result {
        say(&format!("cannot open /dev/console: {err}"));
    }
}

/// Waits until the console has taken all that was written to it.
pub fn drain() {
    // Fails where standard output is no terminal, which keeps nothing back.
    let _ = tcdrain(std::io::stdout());
}

/// Prints a line on the console, with one write.
pub fn say(message: &str) {
    let line = format!("rvm-agent: {message}\n");
    // With no console there is nobody left to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Time since the kernel's clock began.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The line by which a reader of the console knows that the guest is ready. Each byte is a VM exit.
pub fn ready_line(started: Duration, ready: Duration) -> String {
    let kernel = started.as_secs_f64() * 1e3;
    let init = ready.saturating_sub(started).as_secs_f64() * 1e3;
    format!("rvm-agent ready: kernel {kernel:.1} ms, init {init:.1} ms\n")
}

#[cfg(test)]
mod tests {
    use super::ready_line;
    use std::time::Duration;

    #[test]
    fn the_ready_line_tells_both_times_in_milliseconds() {
        let line = ready_line(Duration::from_micros(24_140), Duration::from_micros(24_790));
        assert_eq!(line, "rvm-agent ready: kernel 24.1 ms, init 0.7 ms\n");
    }
}
