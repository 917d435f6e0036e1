//! The user's end of the serial console: standard input and output, raw when they are a terminal; a file; or the last
//! words only, for the control socket.

pub mod escape;
pub mod tail;
pub mod terminal;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rvm_config::Console as ConsoleConfig;

use crate::output_file::{OutputFile, OutputFileError};
use crate::output_stream;
use escape::{Command, Escape};
use tail::Tail;
use terminal::RawTerminal;

/// The console's ends on the host, opened. The user's terminal and file are as they were.
pub enum Console {
    /// Standard input and output.
    Stdio,
    /// A file; no input.
    File(OutputFile),
    /// The last words; no input.
    Captured(Tail),
    /// Nothing.
    None,
}

/// The console's ends in use.
#[derive(Default)]
pub struct Ends {
    /// Where the guest's input comes from.
    pub input: Option<Input>,
    /// What the guest's output goes to, to wait for when it takes no more.
    pub output: Option<File>,
}

/// Where the guest's input comes from.
pub struct Input {
    source: File,
    /// Only a person at a terminal has an escape key; other input is the guest's, byte for byte.
    escape: Option<Escape>,
    /// Restores the terminal when dropped.
    _raw: Option<RawTerminal>,
}

impl Console {
    /// Opens what `config` says.
    pub fn open(config: &ConsoleConfig) -> Result<Self, OutputFileError> {
        Ok(match config {
            ConsoleConfig::None => Self::None,
            ConsoleConfig::Captured => Self::Captured(Tail::default()),
            ConsoleConfig::File(path) => Self::File(OutputFile::open("the console", path)?),
            ConsoleConfig::Stdio => Self::Stdio,
        })
    }

    /// What takes the guest's output. It answers `WouldBlock` rather than block.
    pub fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::None => Box::new(io::sink()),
            Self::Captured(tail) => Box::new(tail.clone()),
            Self::File(file) => Box::new(file.handle()?),
            Self::Stdio => output_stream::without_blocking(io::stdout())?,
        })
    }

    /// The last words of a console that is captured.
    pub fn tail(&self) -> Option<&Tail> {
        match self {
            Self::Captured(tail) => Some(tail),
            Self::Stdio | Self::File(_) | Self::None => None,
        }
    }

    /// Begins: the file is emptied, the terminal made raw.
    pub fn begin(self) -> io::Result<Ends> {
        match self {
            Self::Captured(_) | Self::None => Ok(Ends::default()),
            Self::File(file) => file.begin().map(|_| Ends::default()),
            Self::Stdio => {
                let output = io::stdout().as_fd().try_clone_to_owned()?;
                Ok(Ends { input: open_stdin()?, output: Some(output.into()) })
            }
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

    /// Whether a person types it, with an escape key that must be heard even when the guest does not listen.
    pub fn is_terminal(&self) -> bool {
        self.escape.is_some()
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
