//! Waiting: for the command's end, for orders to shut down, and for every orphan, so that none stays a
//! zombie.
//!
//! Signals are blocked and fetched one by one, never handled asynchronously: there is no handler, hence
//! no race between looking and waiting.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::sys::{self, Reaped};

/// Orders to shut down, whoever gives them: `kill 1`, Ctrl-Alt-Del (SIGINT), a power failure (SIGPWR), and
/// the `halt` and `poweroff` of busybox (SIGUSR1, SIGUSR2).
const ORDERS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGPWR,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How the wait for the command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended.
    Ended(ExitStatus),
    /// Somebody ordered a shutdown; the command may still run.
    Ordered,
}

/// The signals an init waits for, blocked for as long as the process lives.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them. Children must unblock them before they run a program.
    pub fn block() -> nix::Result<Self> {
        let mut set: SigSet = ORDERS.into_iter().collect();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Reaps until the process `command` ends or a shutdown is ordered.
    pub fn until_ended(&self, command: u32) -> Outcome {
        loop {
            while let Reaped::Ended(pid, status) = sys::reap() {
                if pid == command {
                    return Outcome::Ended(status);
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
                Reaped::Ended(..) => {}
                Reaped::NoChildren => return true,
                Reaped::AllRunning => {
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
