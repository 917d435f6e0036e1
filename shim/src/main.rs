//! `containerd-shim-rvm-v2`: what containerd runs for `io.containerd.rvm.v2`, one process a pod.
//!
//! ```text
//!  containerd ── start ──> binds the socket, starts the daemon, answers with the address
//!             ── ttrpc ──> daemon: service ──> shim ──> pod (the VM, its agent), mounts, streams
//!             ── delete ─> cleans up when the daemon is gone
//! ```
//!
//! The contract is containerd's runtime v2 (core/runtime/v2/README.md there). docs/shim.md says what is supported.

mod address;
mod attributes;
mod bootstrap;
mod cgroup;
mod config;
mod container;
mod cpusets;
mod daemon;
mod delete;
mod disks;
mod error;
mod events;
mod flags;
mod forward;
mod hooks;
mod images;
mod info;
mod limits;
mod log;
mod logger;
mod lookup;
mod mounts;
mod names;
mod network;
mod place;
mod pod;
mod pod_config;
mod process;
mod sandbox;
mod sandbox_service;
mod service;
mod shim;
mod spec;
mod start;
mod stats;
mod stdio;
mod streaming;
mod tell;

use std::io::{self, Write};
use std::process::ExitCode;

use error::ShimError;
use flags::{Action, Flags};

fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("containerd-shim-rvm-v2: {error}");
            return ExitCode::FAILURE;
        }
    };
    match act(&flags).and_then(|answer| print(&answer)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For `start` and `delete` containerd reads this; the daemon has its log.
            let text = error::chain(&error);
            eprintln!("containerd-shim-rvm-v2: {text}");
            if flags.action == Action::Serve {
                log::Log::open(".".as_ref(), &flags.id, log::Level::Error).error(&text);
            }
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked for; gives what is to be printed.
fn act(flags: &Flags) -> Result<Vec<u8>, ShimError> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(ShimError::host("find the bundle"))?,
    };
    match flags.action {
        Action::Version => {
            Ok(format!("containerd-shim-rvm-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION")).into_bytes())
        }
        Action::Info => info::info().map_err(ShimError::host("write the answer")),
        Action::Start => start::start(flags, &bundle),
        Action::Delete => delete::delete(flags, &bundle),
        Action::Serve => daemon::serve(flags, &bundle).map(|()| Vec::new()),
    }
}

fn print(answer: &[u8]) -> Result<(), ShimError> {
    io::stdout().write_all(answer).map_err(ShimError::host("answer containerd"))
}
