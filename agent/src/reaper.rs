//! The reaper of a serving agent: takes every child that ends, whosever it was, and tells who asked for it.
//!
//! The synchronous wait of an agent that runs one command is in `reap`; both take children with `sys::reap`.
//!
//! No end is lost between the birth of a process and the question for it: processes are started on the runtime's only
//! thread, which reaps as well, and are watched before the next `await`. (`std::process::Command` would not bear
//! another thread either: it waits for a child itself if the program cannot be executed, and panics when the
//! reaper was faster.)

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::sync::watch;

use crate::command;
use crate::reap::Signals;
use crate::sys::{self, Reaped};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: u8,
    /// When the reaper saw it.
    pub at: SystemTime,
}

/// The end of a process, which may be yet to come.
#[derive(Clone, Debug)]
pub struct Ending(watch::Receiver<Option<Exit>>);

impl Ending {
    /// How it ended; `None` while it runs.
    pub fn now(&self) -> Option<Exit> {
        *self.0.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> Exit {
        if let Ok(exit) = self.0.wait_for(Option::is_some).await
            && let Some(exit) = *exit
        {
            return exit;
        }
        // The reaper is gone, and with it whoever could tell.
        std::future::pending().await
    }
}

/// What the reaper knows, shared by all that ask it.
#[derive(Debug, Default)]
struct Children {
    /// Those somebody asked for, by pid.
    watched: HashMap<u32, watch::Sender<Option<Exit>>>,
}

impl Children {
    fn ended(&mut self, pid: u32, exit: Exit) {
        // Who was not asked for is an orphan.
        if let Some(watcher) = self.watched.remove(&pid) {
            watcher.send_replace(Some(exit));
        }
    }
}

/// Takes the ends of children; clones are one reaper.
#[derive(Clone, Debug, Default)]
pub struct Reaper(Arc<Mutex<Children>>);

impl Reaper {
    /// The end of the child `pid`, born as the file's head says.
    pub fn watch(&self, pid: u32) -> Ending {
        let mut children = self.lock();
        let watcher = children.watched.entry(pid).or_insert_with(|| watch::channel(None).0);
        Ending(watcher.subscribe())
    }

    /// Reaps until a shutdown is ordered by a signal.
    pub async fn until_ordered(&self, signals: &Signals) -> io::Result<()> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let news = sys::asynchronous(SignalFd::with_flags(signals.set(), flags)?.into())?;
        loop {
            match news.async_io(Interest::READABLE, next_signal).await? {
                Some(libc::SIGCHLD) => self.reap(),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }

    /// Takes all children that ended.
    fn reap(&self) {
        while let Reaped::Changed(pid, status) = sys::reap() {
            if status.stopped_signal().is_none() {
                let exit = Exit { code: command::exit_code(status), at: SystemTime::now() };
                self.lock().ended(pid, exit);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        // Each change is complete in itself; a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the number of one signal from a signalfd.
fn next_signal(news: &OwnedFd) -> io::Result<Option<libc::c_int>> {
    // A signalfd_siginfo, of which ssi_signo is the first member. They come whole.
    let mut siginfo = [0; size_of::<libc::signalfd_siginfo>()];
    nix::unistd::read(news, &mut siginfo)?;
    Ok(siginfo.first_chunk().copied().map(libc::c_int::from_ne_bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::command::start;
    use crate::init_tests::beside_reaper;
    use nix::sys::wait::waitpid;

    fn shell(script: &str) -> u32 {
        start(&["sh".into(), "-c".into(), script.into()], false).unwrap().id()
    }

    #[test]
    fn whoever_asked_is_told_the_code_however_many_they_are() {
        let code = beside_reaper(|reaper| async move {
            let pid = shell("exit 7");
            let (mut one, mut other) = (reaper.watch(pid), reaper.watch(pid));
            assert_eq!(one.now(), None);
            assert_eq!(one.wait().await, other.wait().await);
            other.now().unwrap().code
        });
        assert_eq!(code, 7);
    }

    #[test]
    fn a_real_time_signal_is_told_exactly() {
        let code =
            beside_reaper(|reaper| async move { reaper.watch(shell("kill -64 $$")).wait().await.code });
        assert_eq!(code, 192);
    }

    #[test]
    fn orphans_leave_no_zombies_and_no_memory() {
        let code = beside_reaper(|reaper| async move {
            // The inner shell's child falls to init.
            let pid = shell("(sh -c 'exit 3' & ) | cat; exit 5");
            let code = reaper.watch(pid).wait().await.code;
            while waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).is_ok() {
                tokio::task::yield_now().await;
            }
            assert!(reaper.lock().watched.is_empty());
            code
        });
        assert_eq!(code, 5);
    }

    #[test]
    fn an_order_to_shut_down_ends_the_reaping() {
        let code = beside_reaper(|_| async {
            shell("kill -TERM $PPID");
            std::future::pending().await
        });
        assert_eq!(code, 200);
    }
}
