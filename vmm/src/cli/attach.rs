//! A command's end of a connection to a supervisor: the request, and where a process is attached, its input, output,
//! signals and terminal.
//!
//! ```text
//!  main thread       frames ─> standard output, standard error, the end
//!  "input" thread    standard input ─> frames, as far as the window of the supervisor goes
//!  "signals" thread  SIGINT, SIGTERM, ... ─> frames; SIGWINCH ─> the terminal's new size
//! ```
//!
//! The threads end with the process.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::run::Size;
use crate::console::terminal::{self, RawTerminal};
use crate::logging;
use crate::supervisor::protocol::{
    self, CHUNK, Exit, Kind, Refusal, Reply, Request, STDIN_WINDOW, size_bytes,
};

/// Signals that are the process's rather than this command's. (A terminal sends its keys' signals to the process by
/// itself, where that has one.)
const PASSED_ON: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

/// 128 + SIGPIPE: what a shell gives a program whose output nobody reads.
const STATUS_BROKEN_PIPE: u8 = 141;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody is there.
    #[error("the container is not running")]
    NotRunning,
    /// The connection broke.
    #[error("cannot speak to the container's supervisor")]
    Io(#[from] io::Error),
    /// It ended without a word.
    #[error("the container's supervisor ended without a word (killed?); `rvm ps -a` shows what is left")]
    Silent,
    /// An answer that makes no sense.
    #[error("the container's supervisor answers as none does (is it of another version of rvm?)")]
    Strange,
    /// It refused.
    #[error("{message}")]
    Refused {
        /// Its reason.
        message: String,
        /// The exit status for it.
        status: u8,
    },
}

/// A connection whose request is made.
pub struct Attached {
    stream: UnixStream,
    frames: Frames,
}

/// The way to the supervisor, for whichever thread has a frame to send.
#[derive(Clone)]
struct Frames(Arc<Mutex<UnixStream>>);

impl Frames {
    fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::write(&mut *stream, kind, payload)
    }
}

impl Attached {
    /// Connects to the supervisor at `socket` and makes `request`.
    pub fn connect(socket: &Path, request: &Request) -> Result<Self, AttachError> {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        match UnixStream::connect(socket) {
            Ok(stream) => Self::request(stream, request),
            Err(error) if gone.contains(&error.kind()) => Err(AttachError::NotRunning),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes `request` on a connection.
    pub fn request(mut stream: UnixStream, request: &Request) -> Result<Self, AttachError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let frames = Frames(Arc::new(Mutex::new(stream.try_clone()?)));
        Ok(Self { stream, frames })
    }

    /// The next frame; what ends the connection is an error, but for Exit.
    fn next(&mut self) -> Result<(Kind, Vec<u8>), AttachError> {
        match protocol::read(&mut self.stream)? {
            Some((Kind::Error, payload)) => {
                let Refusal { message, status } = parse(&payload)?;
                Err(AttachError::Refused { message, status })
            }
            Some(frame) => Ok(frame),
            None => Err(AttachError::Silent),
        }
    }

    /// Waits until the process runs; says what comes before on standard error.
    pub fn started(mut self) -> Result<(), AttachError> {
        loop {
            match self.next()? {
                (Kind::Started, _) => return Ok(()),
                (Kind::Stderr, bytes) => io::stderr().write_all(&bytes)?,
                _ => return Err(AttachError::Strange),
            }
        }
    }

    /// Waits for the answer to a request that has one.
    pub fn reply(mut self) -> Result<Reply, AttachError> {
        match self.next()? {
            (Kind::Reply, payload) => parse(&payload),
            _ => Err(AttachError::Strange),
        }
    }

    /// Waits for the end of the first process.
    pub fn exit(mut self) -> Result<Exit, AttachError> {
        match self.next()? {
            (Kind::Exit, payload) => parse(&payload),
            _ => Err(AttachError::Strange),
        }
    }

    /// Writes what comes, to `out`, until the answer.
    pub fn receive(mut self, out: &mut impl Write) -> Result<Reply, AttachError> {
        loop {
            match self.next()? {
                (Kind::Stdout, bytes) => out.write_all(&bytes)?,
                (Kind::Reply, payload) => return parse(&payload),
                _ => return Err(AttachError::Strange),
            }
        }
    }

    /// Sends what `from` gives, and waits for the answer.
    pub fn send_all(mut self, from: impl Read + Send + 'static) -> Result<Reply, AttachError> {
        let input = Arc::new(Input::new(self.frames.clone()));
        let sender = input.clone();
        thread::spawn(move || sender.pump(from));
        loop {
            match self.next()? {
                (Kind::Taken, payload) => input.taken(&payload),
                (Kind::Reply, payload) => return parse(&payload),
                _ => return Err(AttachError::Strange),
            }
        }
    }

    /// Is the process's terminal or streams until it ends; gives its exit code. `memory` is for the message about it.
    pub fn carry(mut self, interactive: bool, raw: bool, memory: Size) -> Result<u8, AttachError> {
        let raw = raw && io::stdin().is_terminal();
        pass_signals_on(self.frames.clone(), raw)?;
        let input = Arc::new(Input::new(self.frames.clone()));
        let mut terminal = None;
        loop {
            match self.next()? {
                (Kind::Started, _) => {
                    // Not before: what goes wrong until then is said on the terminal as it was.
                    terminal = raw.then(RawTerminal::enter).transpose()?;
                    if interactive {
                        let sender = input.clone();
                        thread::spawn(move || sender.pump(io::stdin()));
                    }
                }
                (Kind::Stdout, bytes) => {
                    if let Some(status) = self.print(&mut io::stdout().lock(), &bytes)? {
                        return Ok(status);
                    }
                }
                (Kind::Stderr, bytes) => {
                    if let Some(status) = self.print(&mut io::stderr().lock(), &bytes)? {
                        return Ok(status);
                    }
                }
                (Kind::Taken, payload) => input.taken(&payload),
                (Kind::Exit, payload) => {
                    drop(terminal);
                    let Exit { code, out_of_memory, out_of_time } = parse(&payload)?;
                    if out_of_memory {
                        logging::say(&format!(
                            "the container ran out of memory: it has {memory}; give it more with -m"
                        ));
                    }
                    if out_of_time {
                        logging::say("the container was killed: its time (--timeout) was over");
                    }
                    return Ok(code);
                }
                _ => return Err(AttachError::Strange),
            }
        }
    }

    /// Writes output. Where nobody reads it the process ends, as in a pipeline of a shell: then the exit status.
    fn print(&mut self, out: &mut impl Write, bytes: &[u8]) -> Result<Option<u8>, AttachError> {
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                let kill = u8::try_from(libc::SIGKILL).unwrap_or_default();
                self.frames.send(Kind::Signal, &[kill])?;
                // Until everything is taken down; what still comes has no reader.
                while !matches!(self.next(), Ok((Kind::Exit, _)) | Err(_)) {}
                Ok(Some(STATUS_BROKEN_PIPE))
            }
            written => Ok(written.map(|()| None)?),
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, AttachError> {
    serde_json::from_slice(payload).map_err(|_| AttachError::Strange)
}

/// Standard input on its way to a process.
struct Input {
    frames: Frames,
    /// Bytes that may still be sent.
    window: Mutex<usize>,
    opened: Condvar,
}

impl Input {
    fn new(frames: Frames) -> Self {
        Self { frames, window: Mutex::new(STDIN_WINDOW), opened: Condvar::new() }
    }

    /// The supervisor's word that it took some.
    fn taken(&self, payload: &[u8]) {
        let count = payload.try_into().map_or(0, u32::from_le_bytes);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        *window = window.saturating_add(usize::try_from(count).unwrap_or_default()).min(STDIN_WINDOW);
        self.opened.notify_one();
    }

    /// Sends everything that `from` has, then its end. An error of either is an end.
    fn pump(&self, mut from: impl Read) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let room = {
                let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
                let window = self.opened.wait_while(window, |window| *window == 0);
                window.map_or(0, |window| *window).min(CHUNK)
            };
            let read = buffer.get_mut(..room).map_or(Ok(0), |buffer| from.read(buffer));
            let sent = match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(length @ 1..) => {
                    let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
                    *window = window.saturating_sub(length);
                    drop(window);
                    self.frames.send(Kind::Stdin, buffer.get(..length).unwrap_or_default()).is_ok()
                }
                Ok(0) | Err(_) => {
                    // The process may be gone; then nobody waits for the end either.
                    self.frames.send(Kind::StdinEnd, &[]).ok();
                    false
                }
            };
            if !sent {
                return;
            }
        }
    }
}

/// Starts the thread that passes signals on, from now on.
fn pass_signals_on(frames: Frames, terminal: bool) -> io::Result<()> {
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    if terminal {
        signals.add(Signal::SIGWINCH);
    }
    signals.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            let passed = match signal {
                Signal::SIGWINCH => {
                    terminal_size().map_or(Ok(()), |size| frames.send(Kind::Resize, &size_bytes(size)))
                }
                signal => {
                    let number = u8::try_from(signal as i32).unwrap_or_default();
                    frames.send(Kind::Signal, &[number])
                }
            };
            // The process is gone, and this one ends with it.
            if passed.is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Columns and rows of the terminal on standard input or output.
pub fn terminal_size() -> Option<(u16, u16)> {
    terminal::size()
}
