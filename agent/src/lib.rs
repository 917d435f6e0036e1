//! PID 1 of rvm guests, as two programs over one library.
//!
//! | program | guest image | as PID 1 |
//! |---|---|---|
//! | `rvm-init` | what `rvm boot` boots | runs one command, and powers off with its exit code |
//! | `rvm-agent` | what containers run in | serves the host: gRPC and streams over vsock |
//!
//! They are two because an initramfs is read, copied and kept: a guest that only runs a command should not pay for
//! a service. What both do is in [`init`].

mod archive;
mod command;
mod console;
pub mod container;
mod containers;
mod descriptor;
pub mod init;
#[cfg(test)]
mod init_tests;
mod io;
mod listen;
mod mounts;
mod net;
mod port;
mod reap;
mod reaper;
mod refusal;
mod sandbox;
mod server;
mod shutdown;
mod storage;
mod streams;
mod sys;

use std::process::ExitCode;

/// All of `rvm-agent`: PID 1 of a guest, or one of the processes that PID 1 makes of itself.
pub fn agent() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.split_first() {
        // Linux hands PID 1 words of its command line, which mean nothing here.
        _ if std::process::id() == 1 => init::main(|guest| server::serve(guest).map(|()| 0)),
        Some((word, _)) if word == container::CHILD => container::child(),
        Some((word, rest)) if word == archive::child::CHILD => archive::child::run(rest),
        _ => init::main(|_| Ok::<_, server::Error>(0)),
    }
}
