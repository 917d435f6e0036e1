//! `lab run` and `lab shell`: one command, or a shell, in a lab of its own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use nix::sys::termios::{self, SetArg};

use crate::machine::End;
use crate::protocol::{Message, Stream, Work};
use crate::visit::{Surroundings, Visit};

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub surroundings: Surroundings,
    /// Stop the lab after this many seconds of wall time.
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
    /// Put what the command leaves in $RVM_OUT into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

/// Runs one command; the status is the command's.
pub fn run(arguments: &RunArgs) -> io::Result<i32> {
    let visit = Visit::prepare(&arguments.surroundings)?;
    let work = Work::Command { argv: arguments.command.clone() };
    let timeout = Some(Duration::from_secs(arguments.timeout));
    let mut failure = None;
    let end = visit.start(work, timeout, &mut |message| {
        let done = match message {
            Message::Output { stream, bytes } => pass_on(stream, &bytes.0),
            Message::File { name, bytes } => keep(arguments.out.as_deref(), &name, &bytes.0),
            _ => Ok(()),
        };
        if let Err(error) = done {
            failure.get_or_insert(error);
        }
        None
    })?;
    match (end, failure) {
        (_, Some(error)) => Err(error),
        (End::Done(status), None) => Ok(status),
        (end, None) => Err(io::Error::other(end.to_string())),
    }
}

fn pass_on(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        Stream::Stderr => io::stderr().write_all(bytes),
    }
}

fn keep(directory: Option<&Path>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let Some(directory) = directory else {
        return Ok(());
    };
    fs::create_dir_all(directory)?;
    fs::write(directory.join(name), bytes)
}

/// A shell on the terminal, which is as it was before when the lab has ended.
pub fn shell(surroundings: &Surroundings) -> io::Result<i32> {
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin)
        .map_err(|error| io::Error::other(format!("a shell in the lab needs a terminal: {error}")))?;
    let visit = Visit::prepare(surroundings)?;
    let (rows, columns) = terminal_size()?;
    println!("the lab starts; leave it with `exit`, or at once with Ctrl-a x");
    let end = visit.start(Work::Shell { rows, columns }, None, &mut |_| None);
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
    match end? {
        End::Done(status) => Ok(status),
        End::QemuEnded(_) => Ok(0), // Ctrl-a x
        end => Err(io::Error::other(end.to_string())),
    }
}

/// Rows and columns of the terminal, as `stty` has them.
fn terminal_size() -> io::Result<(u16, u16)> {
    let output = Command::new("stty").arg("size").stdin(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(rows)), Some(Ok(columns))) if rows > 0 => Ok((rows, columns)),
        _ => Ok((24, 80)),
    }
}
