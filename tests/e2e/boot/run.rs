//! Running `rvm boot`: to its end, or step by step with a conversation.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rvm_tests::artifact;

pub use crate::process::{PATIENCE, Ran, Running, Stream, run};

/// The end of the line that the guest's init prints when it is ready.
pub const READY: &str = "rvm-agent ready: ";

/// `rvm boot` with these arguments, without input.
pub fn boot(arguments: &[&str]) -> Command {
    let mut command = Command::new(artifact::rvm());
    command.arg("boot").args(arguments).env_remove("RVM_LOG").stdin(Stdio::null());
    command
}

impl Ran {
    /// What stands on the console behind the line by which the guest said that it is ready.
    #[track_caller]
    pub fn said(&self) -> &str {
        let (before, ready) = self.out.split_once(READY).unwrap_or_else(|| panic!("never ready: {self:?}"));
        assert_eq!(before, "", "the kernel has something to say: {self:?}");
        without_farewell(ready.split_once('\n').unwrap().1)
    }

    /// The console to where the kernel said farewell.
    pub fn tail(&self) -> &str {
        without_farewell(&self.out)
    }
}

/// `console` without the line by which a kernel powers off or resets, quiet or not.
fn without_farewell(console: &str) -> &str {
    let last = console.trim_end().rfind('\n').map_or(0, |at| at + 1);
    match console.get(last..) {
        Some(line) if line.starts_with('[') && line.contains("] reboot: ") => &console[..last],
        _ => console,
    }
}

/// Boots a guest that runs `script` in its shell; the arguments are rvm's.
pub fn guest(arguments: &[&str], script: &str) -> Ran {
    run(boot(&[arguments, &["--", "sh", "-c", script]].concat()))
}

/// What a script in the guest says, whose end is to be 0, with nothing said by rvm or the kernel.
#[track_caller]
pub fn said_by(arguments: &[&str], script: &str) -> String {
    let ran = guest(arguments, script);
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
    ran.said().to_owned()
}

/// Waits until a guest has stopped writing to its console because nobody reads it. `ask` has rvm print its
/// statistics to `error`.
#[track_caller]
pub fn wait_until_stalled(error: &mut Stream, ask: impl Fn()) {
    let mut last = None;
    loop {
        ask();
        error.wait_for("port writes");
        let writes = error.wait_for("\n");
        if last.as_ref() == Some(&writes) {
            return;
        }
        last = Some(writes);
        // There is no event for what does not happen; a wait too short makes the test weaker, not wrong.
        thread::sleep(Duration::from_millis(300));
    }
}

impl Running {
    /// Starts `command` and waits until its guest is ready.
    #[track_caller]
    pub fn ready(command: Command) -> Self {
        let mut this = Self::start(command);
        this.out.wait_for(READY);
        this.out.wait_for("\n");
        this
    }
}
