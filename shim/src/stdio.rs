//! The streams of a process on containerd's side: FIFOs, or files, by their paths, or connections ([`crate::streaming`]).
//!
//! A client comes and goes (`ctr task attach`, a containerd that is started again); its going is no end of a stream:
//!
//! * An output is opened for reading as well, so that opening it waits for nobody, and so that what is written while
//!   nobody reads stays in it. When it is full, the process waits, and no other.
//! * An input is held open for writing here as well, until `CloseIO`: it ends when no client writes any more and none
//!   is expected.
//!
//! After the end of the process everything is closed when all has been written: a client that reads to the end has all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use rvm_sandbox::streams::{Stdio, Wanted};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use crate::error::ShimError;
use crate::streaming::{Claim, Direction, Streams};

/// Bytes that are carried at a time.
const CHUNK: usize = 32 << 10;

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
    Fifo(pipe::Sender),
    File(File),
    Stream(UnixStream, Claim),
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
    terminal: bool,
}

/// The tasks that carry between the two sides.
#[derive(Debug)]
pub struct Carried {
    outputs: JoinSet<()>,
    /// Outputs of which a client loses what it has not been sent when it hears of the process's end.
    pub are_lost_with_the_end: bool,
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

    /// Opens them; `streams` are those at the shim's socket. Waits for nobody.
    pub fn open(&self, streams: &Arc<Streams>) -> Result<Opened, ShimError> {
        let wanted = self.wanted(None);
        Ok(Opened {
            stdin: wanted.stdin.then(|| open_input(&self.stdin, streams)).transpose()?,
            stdout: wanted.stdout.then(|| open_output(&self.stdout, streams)).transpose()?,
            stderr: wanted.stderr.then(|| open_output(&self.stderr, streams)).transpose()?,
            terminal: self.terminal,
        })
    }
}

/// The path of a stream, which may be a `file:` address.
fn path(address: &str) -> Result<&Path, ShimError> {
    match address.split_once("://") {
        None => Ok(Path::new(address)),
        Some(("file" | "fifo", path)) => Ok(Path::new(path)),
        Some((scheme, _)) => Err(ShimError::Unsupported {
            what: format!("streams by '{scheme}://'"),
            reason: "FIFOs, files and CRI's streaming are what a process's streams can be",
        }),
    }
}

fn open_input(address: &str, streams: &Arc<Streams>) -> Result<Input, ShimError> {
    if Streams::is_one(address) {
        return streams.open(address, Direction::In).map(|(from, claim)| Input::Stream(from, claim));
    }
    let path = path(address)?;
    let failed = || ShimError::path("open standard input", path);
    let from = pipe::OpenOptions::new().open_receiver(path).map_err(failed())?;
    // There is a reader now, so this does not wait either.
    let kept = pipe::OpenOptions::new().open_sender(path).map_err(failed())?;
    Ok(Input::Fifo { from, kept })
}

fn open_output(address: &str, streams: &Arc<Streams>) -> Result<Output, ShimError> {
    if Streams::is_one(address) {
        return streams.open(address, Direction::Out).map(|(to, claim)| Output::Stream(to, claim));
    }
    let path = path(address)?;
    let failed = || ShimError::path("open the output", path);
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        let fifo = pipe::OpenOptions::new().read_write(true).open_sender(path).map_err(failed())?;
        return Ok(Output::Fifo(fifo));
    }
    let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed())?;
    Ok(Output::File(file))
}

impl Opened {
    /// Carries between these and the guest's ends until both are at their end.
    pub fn carry(self, guest: Stdio) -> Carried {
        let mut outputs = JoinSet::new();
        let are_streams = [&self.stdout, &self.stderr].map(|to| matches!(to, Some(Output::Stream(..))));
        for (from, to) in [(guest.stdout, self.stdout), (guest.stderr, self.stderr)] {
            if let (Some(from), Some(to)) = (from, to) {
                outputs.spawn(carry_output(from, to));
            }
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
        Carried { outputs, are_lost_with_the_end: are_streams.contains(&true), _input: input, kept }
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

async fn carry_output(mut from: UnixStream, mut to: Output) {
    let mut buffer = vec![0; CHUNK];
    // An error is an end: the guest is gone.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default();
        let written = match &mut to {
            Output::Fifo(fifo) => fifo.write_all(bytes).await,
            Output::File(file) => file.write_all(bytes),
            Output::Stream(stream, _) => stream.write_all(bytes).await,
        };
        if written.is_err() {
            // Closed, so that the process hears of it, as it would of a pipe that nobody reads.
            return;
        }
    }
    if let Output::Stream(stream, claim) = to {
        drop(stream);
        claim.heard().await;
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
mod tests {
    use nix::sys::stat::Mode;
    use tokio::io::AsyncReadExt;

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        guest: Stdio,
        process: Stdio,
    }

    fn streams() -> Arc<Streams> {
        Arc::new(Streams::new("/run/s".into()))
    }

    /// FIFOs as a client of containerd makes them, and both ends of a process's streams.
    fn fixture() -> (Fixture, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = directory.path().join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            path.into_os_string().into_string().unwrap()
        };
        let paths = Paths { stdin: path("in"), stdout: path("out"), stderr: String::new(), terminal: false };
        let (stdin, their_stdin) = UnixStream::pair().unwrap();
        let (stdout, their_stdout) = UnixStream::pair().unwrap();
        let guest = Stdio { stdin: Some(stdin), stdout: Some(stdout), stderr: None };
        let process = Stdio { stdin: Some(their_stdin), stdout: Some(their_stdout), stderr: None };
        (Fixture { directory, guest, process }, paths)
    }

    #[tokio::test]
    async fn output_waits_for_its_reader_and_ends_with_the_process() {
        let (fixture, paths) = fixture();
        let mut carried = paths.open(&streams()).unwrap().carry(fixture.guest);
        let mut process = fixture.process.stdout.unwrap();
        process.write_all(b"before anybody reads").await.unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&paths.stdout).unwrap();
        let mut begin = [0; 20];
        reader.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"before anybody reads");
        drop(process);
        carried.drained().await;
        assert_eq!(reader.read(&mut begin).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn input_ends_when_its_writer_is_gone_and_no_other_is_expected() {
        let (fixture, paths) = fixture();
        let mut carried = paths.open(&streams()).unwrap().carry(fixture.guest);
        let mut process = fixture.process.stdin.unwrap();
        for text in [b"one", b"two"] {
            let mut writer = pipe::OpenOptions::new().open_sender(&paths.stdin).unwrap();
            writer.write_all(text).await.unwrap();
            let mut received = [0; 3];
            // The first writer is gone when the second comes.
            process.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, text);
        }
        carried.close_input();
        let mut rest = Vec::new();
        process.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        assert!(fixture.directory.path().exists());
    }

    #[tokio::test]
    async fn a_file_is_appended_to_and_other_addresses_are_refused_by_name() {
        let (fixture, _) = fixture();
        let log = fixture.directory.path().join("log");
        fs::write(&log, "there before\n").unwrap();
        let stdout = format!("file://{}", log.display());
        let paths = Paths { stdout, ..Paths::default() };
        let mut carried = paths.open(&streams()).unwrap().carry(fixture.guest);
        let mut process = fixture.process.stdout.unwrap();
        process.write_all(b"and after\n").await.unwrap();
        drop(process);
        carried.drained().await;
        assert_eq!(fs::read_to_string(&log).unwrap(), "there before\nand after\n");
        let binary = Paths { stdout: "binary:///usr/bin/nerdctl?x=y".to_owned(), ..Paths::default() };
        let error = binary.open(&streams()).err().unwrap().to_string();
        assert!(error.contains("'binary://'"), "{error}");
    }
}
