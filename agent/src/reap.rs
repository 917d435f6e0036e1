//! Waiting: for the command's end, for orders to shut down, and for every orphan, so that none stays a
//! zombie.
//!
//! Signals are blocked and fetched one by one, never handled asynchronously: there is no handler, hence
//! no race between looking and waiting.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::sys::{self, Reaped};

/// Orders to shut down, whoever gives them: `kill 1`, Ctrl-Alt-Del (SIGINT), a power failure (SIGPWR), and
/// the `halt` and `poweroff` of busybox (SIGUSR1, SIGUSR2).
const ORDERS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGUSR1, Signal::SIGUSR2];

/// How the wait for the command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended.
    Ended(ExitStatus),
    /// Somebody ordered a shutdown; the command may still run.
    Ordered,
}

/// Signals the process group that a command leads. That it has just ended is no fault.
fn signal_group(command: u32, signal: Signal) {
    if let Ok(group) = i32::try_from(command) {
        let _ = kill(Pid::from_raw(-group), signal);
    }
}

/// The signals an init waits for, blocked for as long as the process lives.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them. Children must unblock them before they run a program.
    pub fn block() -> nix::Result<Self> {
        let mut set: SigSet = ORDERS.into_iter().collect();
        set.add(Signal::SIGCHLD);
        let mut blocked = set;
        // Init writes to the terminal while a command has its foreground.
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block()?;
        Ok(Self(set))
    }

    /// Which they are.
    pub fn set(&self) -> &SigSet {
        &self.0
    }

    /// Reaps until the process `command` ends or a shutdown is ordered.
    pub fn until_ended(&self, command: u32) -> Outcome {
        loop {
            while let Reaped::Changed(pid, status) = sys::reap() {
                match status.stopped_signal() {
                    _ if pid != command => {}
                    None => return Outcome::Ended(status),
                    // Ctrl-Z: there is nobody else to let it go on.
                    Some(libc::SIGTSTP) => signal_group(command, Signal::SIGCONT),
                    Some(_) => {}
                }
            }
            match sys::wait_for_signal(&self.0, None) {
                Some(libc::SIGCHLD) | None => {}
                Some(_) => return Outcome::Ordered,
            }
        }
    }

    /// Reaps until no child is left; `false` if one still is when `grace` has passed.
    pub fn until_childless(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        loop {
            match sys::reap() {
                Reaped::Changed(..) => {}
                Reaped::NoChildren => return true,
                Reaped::NoNews => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    sys::wait_for_signal(&self.0, Some(left));
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Outcome, Signals, signal_group};
    use crate::command::{exit_code, start};
    use crate::init_tests::as_init;
    use crate::shutdown::stop_processes;
    use nix::errno::Errno;
    use nix::sys::signal::Signal;
    use nix::sys::wait::waitpid;
    use std::time::Duration;

    /// More than any machine takes; no test waits as long.
    const LONG: Duration = Duration::from_secs(60);

    /// Starts a shell command and gives its pid.
    fn shell(script: &str) -> u32 {
        start(&["sh".into(), "-c".into(), script.into()], false).unwrap().id()
    }

    /// Signals the group of a command, which is to a test what `kill -1` is to PID 1.
    fn group_of(command: u32) -> impl Fn(Signal) {
        move |signal| signal_group(command, signal)
    }

    /// The exit code of a command that is waited for.
    fn code_of(signals: &Signals, command: u32) -> u8 {
        match signals.until_ended(command) {
            Outcome::Ended(status) => exit_code(status),
            Outcome::Ordered => panic!("nobody ordered a shutdown"),
        }
    }

    #[test]
    fn a_command_that_exits_gives_its_code() {
        assert_eq!(as_init(|signals| code_of(signals, shell("exit 7"))), 7);
    }

    #[test]
    fn a_command_ended_by_a_signal_gives_128_and_the_signal() {
        assert_eq!(as_init(|signals| code_of(signals, shell("kill -KILL $$"))), 137);
        assert_eq!(as_init(|signals| code_of(signals, shell("kill -64 $$"))), 192);
    }

    #[test]
    fn orphans_are_reaped_while_the_command_runs_and_do_not_change_its_code() {
        // The inner shell's child falls to init; its end is seen when the pipe closes.
        let script = "(sh -c 'exit 3' & ) | cat; exit 5";
        let code = as_init(|signals| {
            let code = code_of(signals, shell(script));
            assert!(signals.until_childless(LONG));
            assert_eq!(waitpid(None, None), Err(Errno::ECHILD));
            code
        });
        assert_eq!(code, 5);
    }

    #[test]
    fn an_order_to_shut_down_ends_the_wait_and_then_the_processes() {
        for order in ["TERM", "INT", "PWR", "USR1", "USR2"] {
            let code = as_init(|signals| {
                let command = shell(&format!("kill -{order} $PPID; exec sleep 1000"));
                assert_eq!(signals.until_ended(command), Outcome::Ordered);
                assert!(stop_processes(signals, LONG, group_of(command)));
                0
            });
            assert_eq!(code, 0, "{order}");
        }
    }

    #[test]
    fn what_ignores_the_order_is_killed() {
        let code = as_init(|signals| {
            let command = shell("trap '' TERM HUP; kill -TERM $PPID; while :; do sleep 1000; done");
            assert_eq!(signals.until_ended(command), Outcome::Ordered);
            assert!(stop_processes(signals, Duration::ZERO, group_of(command)));
            0
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_stopped_process_is_ended_too() {
        let code = as_init(|signals| {
            let command = shell("kill -TERM $PPID; kill -STOP $$");
            assert_eq!(signals.until_ended(command), Outcome::Ordered);
            assert!(stop_processes(signals, LONG, group_of(command)));
            0
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_command_that_the_terminal_stops_goes_on() {
        assert_eq!(as_init(|signals| code_of(signals, shell("kill -TSTP $$; exit 6"))), 6);
    }

    #[test]
    fn a_command_leads_its_group_and_has_no_signal_blocked() {
        let script = "read -r pid comm state parent group rest < /proc/self/stat
            [ $group = $pid ] && grep -q '^SigBlk:.0*$' /proc/self/status";
        assert_eq!(as_init(|signals| code_of(signals, shell(script))), 0);
    }
}
