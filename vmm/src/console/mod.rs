//! The user's end of the serial console: standard input and output, raw when they are a terminal.

pub mod escape;
pub mod terminal;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rvm_config::Console as ConsoleConfig;

use crate::devices::serial::PolledWriter;
use escape::{Command, Escape};
use terminal::RawTerminal;

/// Where the guest's input comes from.
pub struct Input {
    source: File,
    /// Only a person at a terminal has an escape key; other input is the guest's, byte for byte.
    escape: Option<Escape>,
    /// Restores the terminal when dropped.
    _raw: Option<RawTerminal>,
}

/// Opens what `config` says: where the guest's output goes, and where its input comes from.
pub fn open(config: &ConsoleConfig) -> io::Result<(Box<dyn Write + Send>, Option<Input>)> {
    match config {
        ConsoleConfig::None => Ok((Box::new(io::sink()), None)),
        ConsoleConfig::File(path) => Ok((Box::new(File::create(path)?), None)),
        ConsoleConfig::Stdio => {
            let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Ok((Box::new(PolledWriter(output)), open_stdin()?))
        }
    }
}

/// Standard input; `None` when it is closed.
fn open_stdin() -> io::Result<Option<Input>> {
    let stdin = io::stdin();
    let Ok(source) = stdin.as_fd().try_clone_to_owned() else {
        return Ok(None);
    };
    let raw = if stdin.is_terminal() { Some(RawTerminal::enter()?) } else { None };
    let escape = raw.as_ref().map(|_| Escape::default());
    Ok(Some(Input { source: source.into(), escape, _raw: raw }))
}

/// What one read of the input gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the guest.
    pub bytes: Vec<u8>,
    /// For the VMM, in the order typed.
    pub commands: Vec<Command>,
    /// No more will come.
    pub ended: bool,
}

impl Input {
    /// The descriptor to wait on.
    pub fn descriptor(&self) -> &File {
        &self.source
    }

    /// Reads at most `space` bytes for the guest.
    pub fn read(&mut self, space: usize) -> Typed {
        let mut buffer = [0; 256];
        let room = buffer.len().min(space);
        let count = match (&self.source).read(&mut buffer[..room]) {
            Ok(0) => return Typed { ended: true, ..Typed::default() },
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => 0,
            // A terminal that was hung up, for one: as good as its end.
            Err(_) => return Typed { ended: true, ..Typed::default() },
        };
        match &mut self.escape {
            None => Typed { bytes: buffer[..count].to_vec(), ..Typed::default() },
            Some(escape) => {
                let (bytes, commands) = escape.split(&buffer[..count]);
                Typed { bytes, commands, ended: false }
            }
        }
    }
}
