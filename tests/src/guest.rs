//! A guest under test: `rvm boot` with its console on pipes, and the tap that its network card is plugged into.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::artifact;

/// Why a guest did not do what was expected; with all that it said until then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host failed, not the guest.
    #[error("cannot run rvm: {0}")]
    Host(#[from] io::Error),
    /// It ended before it said what was waited for.
    #[error("rvm ended before {0:?} was on the console:\n{1}")]
    Ended(String, String),
    /// It did not say it in time.
    #[error("{0:?} did not come within {1:?}; the console:\n{2}")]
    Silent(String, Duration, String),
}

/// A running `rvm boot`; ended by force when dropped.
#[derive(Debug)]
pub struct Guest {
    rvm: Child,
    keyboard: ChildStdin,
    console: Receiver<Vec<u8>>,
    /// What it said, and how much of that has been waited for.
    said: String,
    heard: usize,
}

impl Guest {
    /// Starts `rvm boot` with these arguments. Its standard error stays this process's.
    pub fn boot<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Self::start(Command::new(artifact::rvm()).arg("boot").args(arguments))
    }

    /// Starts a VMM, which may be another one, that has the guest's console on its standard streams.
    pub fn start(command: &mut Command) -> Result<Self, Error> {
        let mut rvm = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(keyboard), Some(mut screen)) = (rvm.stdin.take(), rvm.stdout.take()) else {
            return Err(io::Error::other("a child without the pipes that it was given").into());
        };
        let (sender, console) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if sender.send(bytes).is_err() {
                    return;
                }
            }
        });
        Ok(Self { rvm, keyboard, console, said: String::new(), heard: 0 })
    }

    /// Waits until the console shows `text`, after what was waited for before.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        loop {
            let unheard = self.said.get(self.heard..).unwrap_or_default();
            if let Some(at) = unheard.find(text) {
                self.heard += at + text.len();
                return Ok(());
            }
            match self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.said.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::Silent(text.to_owned(), patience, self.said.clone()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Ended(text.to_owned(), self.said.clone()));
                }
            }
        }
    }

    /// Types a line on the console.
    pub fn enter(&mut self, line: &str) -> Result<(), Error> {
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Waits for the end of the guest; gives all that it said, and rvm's exit status.
    pub fn end(mut self, patience: Duration) -> Result<(String, ExitStatus), Error> {
        let deadline = Instant::now() + patience;
        loop {
            match self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.said.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let said = std::mem::take(&mut self.said);
                    return Err(Error::Silent("the end".into(), patience, said));
                }
            }
        }
        // The console closes with the process.
        Ok((std::mem::take(&mut self.said), self.rvm.wait()?))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nobody is left to tell of an error; the runner ends what remains of a test.
        self.rvm.kill().ok();
        self.rvm.wait().ok();
    }
}

/// A tap device of this host; gone when dropped.
#[derive(Debug)]
pub struct Tap {
    name: String,
}

impl Tap {
    /// Makes a tap of this name (at most 15 bytes) with an address such as `192.0.2.1/24`. Takes root.
    pub fn new(name: &str, address: &str) -> io::Result<Self> {
        ip(&["tuntap", "add", name, "mode", "tap"])?;
        let tap = Self { name: name.to_owned() };
        ip(&["address", "add", address, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(tap)
    }

    /// The name, as `rvm boot --net` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // What a test leaves is its own; the next one of this name says so.
        ip(&["link", "delete", &self.name]).ok();
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {words}", arguments.join(" "))))
}
