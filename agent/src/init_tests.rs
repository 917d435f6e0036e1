//! What tests of an init stand on: a process of their own that orphans fall to. Built for tests only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "fork: each test makes a process of its own to be init")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tokio::runtime::Builder;
use tokio::time::sleep;

use crate::reap::Signals;
use crate::reaper::Reaper;

/// What `init` gives when it runs in a process of its own, to which orphans fall as they do to PID 1.
pub fn as_init(init: impl FnOnce(&Signals) -> u8) -> u8 {
    // SAFETY: the child is one thread; glibc keeps its allocator usable there.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(|| {
                set_child_subreaper(true).unwrap();
                init(&Signals::block().unwrap())
            }));
            // SAFETY: ends the process without the test harness's exit handlers.
            unsafe { libc::_exit(code.unwrap_or(255).into()) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => u8::try_from(code).unwrap(),
            status => panic!("init ended by {status:?}"),
        },
    }
}

/// Runs `test` beside a reaper, in a process that is init to its children.
pub fn beside_reaper<F: Future<Output = u8>>(test: impl FnOnce(Reaper) -> F) -> u8 {
    as_init(|signals: &Signals| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reaper = Reaper::default();
            let test = test(reaper.clone());
            tokio::select! {
                code = test => code,
                ordered = reaper.until_ordered(signals) => { ordered.unwrap(); 200 }
                () = sleep(Duration::from_secs(60)) => 201,
            }
        })
    })
}
