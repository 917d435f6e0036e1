//! The one command of the guest: what it is, where it runs, and what its end means as an exit code.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Child, ExitStatus};

use crate::sys;

const SHELL: &str = "/bin/sh";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit codes of a command that could not be started, as shells give them.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_EXECUTABLE: u8 = 126;

/// Why no command runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No command was given, and the image has no shell.
    #[error(
        "no command given, and no shell ({SHELL}) in this image; give one after ` -- ` on the kernel command line"
    )]
    NoShell,
    /// The program is missing or is no program.
    #[error("cannot run {program:?}")]
    Start {
        /// As given on the kernel command line.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// What a shell would exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoShell => EXIT_NOT_FOUND,
            Self::Start { source, .. } => match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => EXIT_NOT_FOUND,
                _ => EXIT_NOT_EXECUTABLE,
            },
        }
    }
}

/// The words of the command: those the kernel passes to init from behind ` -- ` on its command line.
///
/// The kernel passes the words before it that it does not know, too. They stand first in `args`, so the
/// command is as many words from the end as there are behind the dashes.
pub fn from_kernel(args: Vec<OsString>, cmdline: &[u8]) -> Vec<OsString> {
    let unknown = args.len().saturating_sub(words_behind_dashes(cmdline));
    args.into_iter().skip(unknown).collect()
}

/// Counts the words behind the first `--`, splitting as the kernel does: at blanks outside quotes.
fn words_behind_dashes(cmdline: &[u8]) -> usize {
    let mut quoted = false;
    let words = cmdline.split(|&byte| {
        quoted ^= byte == b'"';
        byte.is_ascii_whitespace() && !quoted
    });
    let mut words = words.filter(|word| !word.is_empty());
    match words.find(|word| *word == b"--") {
        Some(_) => words.count(),
        None => 0,
    }
}

/// Starts the command, or a shell where there is none, on the console and in a session of its own.
pub fn start(words: &[OsString]) -> Result<Child, Error> {
    let (program, args) = match words.split_first() {
        Some(split) => split,
        None if Path::new(SHELL).exists() => (&OsString::from(SHELL), &[][..]),
        None => return Err(Error::NoShell),
    };
    let mut command = process::Command::new(program);
    // The kernel starts init with HOME=/ and with no PATH.
    command.args(args).env("HOME", "/root");
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", DEFAULT_PATH);
    }
    if std::env::var_os("TERM").is_none() {
        command.env("TERM", "linux");
    }
    sys::in_own_session(&mut command);
    command.spawn().map_err(|source| Error::Start {
        program: program.clone(),
        source,
    })
}

/// The exit code that tells how a process ended: its own, or 128 + the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = match status.signal() {
        Some(signal) => signal.saturating_add(128),
        None => status.code().unwrap_or_default(),
    };
    // Linux keeps eight bits of an exit code, and has 64 signals.
    u8::try_from(code).unwrap_or(u8::MAX)
}
