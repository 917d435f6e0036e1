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
    #[error("cannot run {}", .program.display())]
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

/// Starts the command, or a shell where there is none, on the console and in a process group of its own: in
/// the foreground, if init owns the terminal.
///
/// Init leads the session, not the command: the end of a session's leader hangs its terminal up, and what the
/// command wrote last would be lost.
pub fn start(words: &[OsString], in_foreground: bool) -> Result<Child, Error> {
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
    sys::in_own_group(&mut command, in_foreground);
    command.spawn().map_err(|source| Error::Start { program: program.clone(), source })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{exit_code, from_kernel, start, words_behind_dashes};
    use std::ffi::OsString;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_command_is_what_stands_behind_the_dashes() {
        let command = from_kernel(words(&["ls", "-l", "/"]), b"quiet -- ls -l /\n");
        assert_eq!(command, words(&["ls", "-l", "/"]));
    }

    #[test]
    fn words_that_the_kernel_did_not_know_are_no_part_of_the_command() {
        let args = words(&["nosuchoption", "echo", "hi"]);
        let command = from_kernel(args.clone(), b"nosuchoption quiet -- echo hi");
        assert_eq!(command, words(&["echo", "hi"]));
        assert_eq!(from_kernel(args, b"nosuchoption echo hi"), words(&[]));
    }

    #[test]
    fn words_are_counted_as_the_kernel_splits_them() {
        for (cmdline, count) in [
            (&b""[..], 0),
            (b"quiet", 0),
            (b"quiet --", 0),
            (b"quiet -- ", 0),
            (b"-- a", 1),
            (b"a  --  b   c ", 2),
            (b"a -- b -- c", 3),
            (b"a -- \"b c\" d\te", 3),
            (b"a -- sh -c \"exit 3\"\n", 3),
            (b"x=\"a -- b\" -- c", 1),
            (b"a -- \"\" b", 2),
            (b"a -- \"never closed", 1),
        ] {
            assert_eq!(words_behind_dashes(cmdline), count, "{}", cmdline.escape_ascii());
        }
    }

    #[test]
    fn exit_codes_are_those_a_shell_gives() {
        // Wait statuses: the exit code in the second byte, the signal in the lower seven bits, 0x80 a core.
        for (status, code) in [(0, 0), (0x0100, 1), (0xff00, 255), (9, 137), (0x8b, 139), (64, 192)] {
            assert_eq!(exit_code(ExitStatus::from_raw(status)), code, "{status:#x}");
        }
    }

    #[test]
    fn what_is_not_there_is_127_and_what_is_no_program_is_126() {
        for (program, code) in [
            ("/nonexistent", 127),
            ("no-such-command-in-the-path", 127),
            ("/proc/self/exe/below-a-file", 127),
            ("/", 126),
            ("/proc/self/status", 126),
        ] {
            let err = start(&words(&[program]), false).unwrap_err();
            assert_eq!(err.exit_code(), code, "{program}: {err}");
        }
    }
}
