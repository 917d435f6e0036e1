//! The streams of a process on containerd's side: FIFOs, or files, by their paths, or connections ([`crate::streaming`]);
//! outputs can be those of a logging program ([`crate::logger`]).
//!
//! A client comes and goes (`ctr task attach`, a containerd that is started again); its going is no end of a stream:
//!
//! * An output is opened for reading as well, so that opening it waits for nobody, and so that what is written while
//!   nobody reads stays in it. When it is full, the process waits, and no other.
//! * An input is held open for writing here as well, until `CloseIO`: it ends when no client writes any more and none
//!   is expected.
//!
//! After the end of the process everything is closed when all has been written: a client that reads to the end has all.
//!
//! Files are written by threads of their own: one whose file system hangs is waited for by its process, and by no other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rvm_sandbox::streams::{Stdio, Wanted};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::error::ShimError;
use crate::log::Log;
use crate::logger::{Logger, Patience, Subject};
use crate::streaming::{Claim, Direction, Streams};

/// Bytes that are carried at a time.
const CHUNK: usize = 32 << 10;

/// How long output may take to be read after the end of the process that wrote it, when the process is deleted.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Where the streams of a process are; an empty path is /dev/null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Standard input.
    pub stdin: String,
    /// Standard output, or what a terminal shows.
    pub stdout: String,
    /// Standard error; not with a terminal.
    pub stderr: String,
    /// The process has a terminal.
    pub terminal: bool,
}

enum Output {
    /// A FIFO, or a pipe to a logging program.
    Pipe(pipe::Sender),
    File(Arc<File>),
    Stream(UnixStream, Claim),
}

/// Whose output it is and where it goes, for the log.
struct Route {
    process: String,
    to: String,
    log: Log,
}

enum Input {
    Fifo {
        from: pipe::Receiver,
        /// Until CloseIO.
        kept: pipe::Sender,
    },
    Stream(UnixStream, Claim),
}

/// What lets other clients come for an input.
#[derive(Debug)]
enum Kept {
    Fifo(#[allow(dead_code, reason = "it is held open")] pipe::Sender),
    Stream(Claim),
}

/// The host's ends, open.
pub struct Opened {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// The program at the other end of both.
    logger: Option<Logger>,
    terminal: bool,
    /// Whose they are, and where the outputs are said to be.
    process: String,
    outputs: [String; 2],
}

/// The tasks that carry between the two sides.
#[derive(Debug)]
pub struct Carried {
    outputs: JoinSet<()>,
    /// Outputs of which a client loses what it has not been sent when it hears of the process's end.
    pub are_lost_with_the_end: bool,
    /// How long what was written may take to be read when the process is deleted.
    pub patience: Duration,
    /// Ends with this.
    _input: JoinSet<()>,
    kept: Option<Kept>,
}

impl Paths {
    /// Which streams the process is to have.
    pub fn wanted(&self, size: Option<(u16, u16)>) -> Wanted {
        Wanted {
            stdin: !self.stdin.is_empty(),
            stdout: !self.stdout.is_empty(),
            stderr: !self.terminal && !self.stderr.is_empty(),
            size,
        }
    }

    /// Opens them, of the process `subject`; `streams` are those at the shim's socket. Waits for nobody but a logging
    /// program that is started.
    pub async fn open(&self, streams: &Arc<Streams>, subject: Subject<'_>) -> Result<Opened, ShimError> {
        let wanted = self.wanted(None);
        let stdin = wanted.stdin.then(|| open_input(&self.stdin, streams)).transpose()?;
        let mut opened = Opened {
            stdin,
            stdout: None,
            stderr: None,
            logger: None,
            terminal: self.terminal,
            process: subject.id.to_owned(),
            outputs: [self.stdout.clone(), self.stderr.clone()],
        };
        match self.program()? {
            Some(address) => {
                let (logger, outputs) = Logger::start(&address, subject).await?;
                opened.logger = Some(logger);
                opened.stdout = Some(Output::Pipe(outputs.stdout));
                opened.stderr = Some(Output::Pipe(outputs.stderr));
            }
            None => {
                opened.stdout = wanted.stdout.then(|| open_output(&self.stdout, streams)).transpose()?;
                opened.stderr = wanted.stderr.then(|| open_output(&self.stderr, streams)).transpose()?;
            }
        }
        Ok(opened)
    }

    /// The logging program, where the outputs are one's. It is one for both.
    fn program(&self) -> Result<Option<Address>, ShimError> {
        let is_one = |address: &str| address.starts_with("binary://");
        if !is_one(&self.stdout) && !is_one(&self.stderr) {
            return Ok(None);
        }
        if self.stdout != self.stderr && !self.stderr.is_empty() {
            return Err(ShimError::Unsupported {
                what: "a logging program for one output, and something else for the other".to_owned(),
                reason: "such a program is given both; give the same address for standard output and standard error",
            });
        }
        Address::read(&self.stdout).map(Some)
    }
}

/// The path of a stream, which may be a `file:` address.
fn path(address: &str) -> Result<PathBuf, ShimError> {
    let address = Address::read(address)?;
    match address.scheme.as_deref() {
        None | Some("file" | "fifo") => Ok(address.path),
        Some(scheme) => Err(ShimError::Unsupported {
            what: format!("streams by '{scheme}://'"),
            reason: "FIFOs, files, CRI's streaming and, for outputs, logging programs are what they can be",
        }),
    }
}

fn open_input(address: &str, streams: &Arc<Streams>) -> Result<Input, ShimError> {
    if Streams::is_one(address) {
        return streams.open(address, Direction::In).map(|(from, claim)| Input::Stream(from, claim));
    }
    let path = path(address)?;
    let failed = || ShimError::path("open standard input", &path);
    let from = pipe::OpenOptions::new().open_receiver(&path).map_err(failed())?;
    // There is a reader now, so this does not wait either.
    let kept = pipe::OpenOptions::new().open_sender(&path).map_err(failed())?;
    Ok(Input::Fifo { from, kept })
}

fn open_output(address: &str, streams: &Arc<Streams>) -> Result<Output, ShimError> {
    if Streams::is_one(address) {
        return streams.open(address, Direction::Out).map(|(to, claim)| Output::Stream(to, claim));
    }
    let path = path(address)?;
    let failed = || ShimError::path("open the output", &path);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        let fifo = pipe::OpenOptions::new().read_write(true).open_sender(&path).map_err(failed())?;
        return Ok(Output::Pipe(fifo));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed())?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(&path).map_err(failed())?;
    Ok(Output::File(Arc::new(file)))
}

impl Opened {
    /// Carries between these and the guest's ends until both are at their end.
    pub fn carry(self, guest: Stdio, log: &Log) -> Carried {
        let mut outputs = JoinSet::new();
        let are_streams = [&self.stdout, &self.stderr].map(|to| matches!(to, Some(Output::Stream(..))));
        let [stdout, stderr] = self.outputs.map(|to| {
            let process = self.process.clone();
            Route { process, to, log: log.clone() }
        });
        let both = [(guest.stdout, self.stdout, stdout), (guest.stderr, self.stderr, stderr)];
        let carried = both.map(|(from, to, route)| async move {
            if let (Some(from), Some(to)) = (from, to) {
                carry_output(from, to, route).await;
            }
        });
        let mut patience = DRAIN_PATIENCE;
        match self.logger {
            Some(logger) => {
                let Patience { by_itself, by_signal } = Patience::USUAL;
                patience += by_itself + by_signal;
                let [stdout, stderr] = carried;
                outputs.spawn(async move {
                    tokio::join!(stdout, stderr);
                    logger.end(Patience::USUAL).await;
                });
            }
            None => carried.into_iter().for_each(|carried| drop(outputs.spawn(carried))),
        }
        let mut input = JoinSet::new();
        let mut kept = None;
        if let (Some(from), Some(to)) = (self.stdin, guest.stdin) {
            kept = Some(match from {
                Input::Fifo { from, kept } => {
                    input.spawn(carry_input(from, to, self.terminal));
                    Kept::Fifo(kept)
                }
                Input::Stream(from, claim) => {
                    input.spawn(carry_input(from, to, self.terminal));
                    Kept::Stream(claim)
                }
            });
        }
        let are_lost_with_the_end = are_streams.contains(&true);
        Carried { outputs, are_lost_with_the_end, patience, _input: input, kept }
    }
}

impl Carried {
    /// No client is expected to write any more.
    pub fn close_input(&mut self) {
        match &self.kept {
            Some(Kept::Fifo(_)) => self.kept = None,
            Some(Kept::Stream(claim)) => claim.close(),
            None => {}
        }
    }

    /// Waits until all output has been written.
    pub async fn drained(&mut self) {
        while self.outputs.join_next().await.is_some() {}
    }
}

async fn carry_output(mut from: UnixStream, mut to: Output, route: Route) {
    let mut buffer = vec![0; CHUNK];
    // An error is an end: the guest is gone.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default();
        let written = match &mut to {
            Output::Pipe(pipe) => pipe.write_all(bytes).await,
            Output::File(file) => write(file.clone(), bytes.to_vec()).await,
            Output::Stream(stream, _) => stream.write_all(bytes).await,
        };
        if let Err(error) = written {
            // A client that goes is nothing to tell of; a file that is full is.
            if !matches!(to, Output::Stream(..)) {
                route.lost(&error);
            }
            // Closed, so that the process hears of it, as it would of a pipe that nobody reads.
            return;
        }
    }
    if let Output::Stream(stream, claim) = to {
        drop(stream);
        claim.heard().await;
    }
}

/// Writes to a file, on a thread that may wait.
async fn write(file: Arc<File>, bytes: Vec<u8>) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || (&*file).write_all(&bytes)).await;
    written.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Route {
    fn lost(&self, error: &io::Error) {
        let Self { process, to, log } = self;
        log.warn(process, &format!("cannot write output to '{to}', which is closed: {error}"));
    }
}

async fn carry_input(mut from: impl AsyncRead + Unpin, mut to: UnixStream, terminal: bool) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    match terminal {
        // A terminal stays as it is when nobody types any more.
        true => std::future::pending().await,
        // The process may have ended before its input.
        false => to.shutdown().await.unwrap_or_default(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests;
