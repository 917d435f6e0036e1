//! `hooks.startContainer`: programs of the container that run in it before the user's (config.md, "POSIX-platform
//! Hooks").

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::Failure;
use crate::container::plan::Hook;
use crate::container::sys;

/// Runs the hooks, one after the other. The first that fails fails the start.
pub fn run(hooks: &[Hook], id: &str) -> Result<(), Failure> {
    for hook in hooks {
        run_one(hook, id).map_err(Failure::at(format!("run the hook {}", hook.path.display())))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, id: &str) -> io::Result<()> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    for variable in &hook.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let mut running = command.spawn()?;
    if let Some(mut input) = running.stdin.take() {
        match input.write_all(state(id).as_bytes()) {
            // It does not want to know.
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
    }
    let status = match hook.timeout {
        None => running.wait()?,
        Some(seconds) => wait_at_most(&mut running, Duration::from_secs(seconds))?,
    };
    if status.success() { Ok(()) } else { Err(Errno::ECANCELED.into()) }
}

/// Waits for the end of a hook, and ends it when its time is over.
fn wait_at_most(running: &mut Child, time: Duration) -> io::Result<ExitStatus> {
    let process = sys::open_process(running.id())?;
    if !sys::wait_for(&process, PollFlags::POLLIN, time)? {
        running.kill()?;
        running.wait()?;
        return Err(Errno::ETIMEDOUT.into());
    }
    running.wait()
}

/// The state that a hook reads (runtime.md, "State").
fn state(id: &str) -> String {
    serde_json::json!({
        "ociVersion": "1.2.0",
        "id": id,
        "status": "created",
        "pid": std::process::id(),
        "bundle": "/",
    })
    .to_string()
}
