//! What commands of the `rvm` command line and a supervisor say to each other, over the supervisor's socket.
//!
//! ```text
//!  command ──> one line of JSON: a Request
//!          <── frames: Started, Stdout, Stderr, Taken, Reply, and as the last one Exit or Error
//!          ──> frames, where a process is attached: Stdin, StdinEnd, Resize, Signal
//!
//!  frame:  kind (1 byte)  length of the payload (4 bytes, little-endian)  payload
//! ```
//!
//! A command sends at most [`STDIN_WINDOW`] bytes of standard input that the supervisor has not yet said to be
//! [`Kind::Taken`]: so a signal is never stuck behind input that nobody reads.

use std::io::{self, Read, Write};

use rvm_agent_proto::{Process, StatsResponse};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::state::UserRecord;

/// Longest request, and longest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Bytes of standard input that may be under way.
pub const STDIN_WINDOW: usize = 256 << 10;
/// Bytes of output or input in one frame.
pub const CHUNK: usize = 64 << 10;

const HEADER: usize = 5;

/// What a command asks of a supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Be told of the start, the output and the end of the first process, and be its input. Only `rvm run` asks for
    /// it, on the connection that the supervisor is born with.
    Attach {
        /// Size of its terminal, columns and rows.
        size: Option<(u16, u16)>,
    },
    /// Run one more process, attached.
    Exec(Box<Exec>),
    /// Send a signal to the first process.
    Signal(i32),
    /// Ask the first process to end, by `signal` or the container's own; kill it after `timeout` seconds.
    Stop {
        /// Instead of the container's own.
        signal: Option<i32>,
        /// Patience, in seconds.
        timeout: u64,
    },
    /// Hold the container.
    Pause,
    /// Let it go on.
    Resume,
    /// Answer Exit at the end of the first process.
    Wait,
    /// Answer [`Reply::Stats`].
    Stats,
    /// Answer [`Reply::Processes`].
    Processes,
    /// Send a path of the container as a tar archive, in Stdout frames.
    CopyOut {
        /// In the container.
        path: String,
        /// Follow a link that the path ends in.
        follow: bool,
    },
    /// Unpack a tar archive that comes in Stdin frames.
    CopyIn {
        /// A directory of the container.
        path: String,
    },
}

/// One more process in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// As the agent gets it: JSON of the OCI runtime specification.
    pub process: serde_json::Value,
    /// Who it is.
    pub user: UserRecord,
    /// It has standard input.
    pub interactive: bool,
    /// Size of its terminal, columns and rows.
    pub size: Option<(u16, u16)>,
    /// Answer at its start; its output goes nowhere.
    pub detach: bool,
}

/// How a process, or a request, ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: u8,
    /// The memory limit was reached.
    pub out_of_memory: bool,
    /// It was killed because its time was over.
    pub out_of_time: bool,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What was attempted, on what, why not.
    pub message: String,
    /// The exit status for it: 125, 126 or 127.
    pub status: u8,
}

/// What a supervisor answers with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// What the container uses.
    Stats(Box<Usage>),
    /// Its processes.
    Processes(Vec<ProcessRecord>),
}

/// What a container uses; the guest's word but for the VM's memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Memory of the container, without what its files could give back.
    pub memory_bytes: u64,
    /// What that may be.
    pub memory_limit_bytes: Option<u64>,
    /// Processes.
    pub pids: u64,
    /// From disks and into them.
    pub block: (u64, u64),
    /// Received and sent.
    pub net: (u64, u64),
    /// Memory of the host that the VM takes.
    pub vm_memory_bytes: u64,
}

/// A process of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRecord {
    /// In the guest.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its user.
    pub uid: u32,
    /// Milliseconds since the guest's boot.
    pub started_ms: u64,
    /// Processor time in microseconds.
    pub cpu_us: u64,
    /// Name of its terminal, or "?".
    pub terminal: String,
    /// Its words.
    pub command: String,
}

impl From<Process> for ProcessRecord {
    fn from(process: Process) -> Self {
        let Process { pid, parent, uid, started_ms, cpu_us, terminal, command, .. } = process;
        let terminal = if terminal.is_empty() { "?".to_owned() } else { terminal };
        Self { pid, parent, uid, started_ms, cpu_us, terminal, command: command.join(" ") }
    }
}

impl From<StatsResponse> for Usage {
    fn from(stats: StatsResponse) -> Self {
        let memory = stats.memory.unwrap_or_default();
        let sum = |read: fn(&rvm_agent_proto::IoStats) -> u64| {
            stats.io.iter().map(read).fold(0, u64::saturating_add)
        };
        Self {
            cpu_us: stats.cpu.unwrap_or_default().usage_us,
            memory_bytes: memory.current_bytes.saturating_sub(memory.inactive_file_bytes),
            memory_limit_bytes: Some(memory.limit_bytes).filter(|limit| *limit != u64::MAX),
            pids: stats.pids.unwrap_or_default().current,
            block: (sum(|io| io.read_bytes), sum(|io| io.written_bytes)),
            ..Self::default()
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the process's standard input.
    Stdin = 1,
    /// From its standard output, or its terminal.
    Stdout = 2,
    /// From its standard error.
    Stderr = 3,
    /// Its standard input ends.
    StdinEnd = 4,
    /// Its terminal's size: columns and rows, 2 bytes each, little-endian.
    Resize = 5,
    /// A signal for it, 1 byte.
    Signal = 6,
    /// So many bytes of standard input were taken: 4 bytes, little-endian.
    Taken = 7,
    /// It runs.
    Started = 8,
    /// A [`Reply`].
    Reply = 9,
    /// An [`Exit`].
    Exit = 10,
    /// A [`Refusal`].
    Error = 11,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::StdinEnd,
        Self::Resize,
        Self::Signal,
        Self::Taken,
        Self::Started,
        Self::Reply,
        Self::Exit,
        Self::Error,
    ];

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The first bytes of a frame.
fn header(kind: Kind, payload: &[u8]) -> io::Result<[u8; HEADER]> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind as u8, a, b, c, d])
}

fn parse(header: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let [kind, a, b, c, d] = header;
    let kind = Kind::from_number(kind).ok_or_else(|| io::Error::other(format!("frame of kind {kind}")))?;
    match usize::try_from(u32::from_le_bytes([a, b, c, d])) {
        Ok(length @ 0..=MAX_PAYLOAD) => Ok((kind, length)),
        _ => Err(io::Error::other("a frame that is too long")),
    }
}

/// Writes a frame.
pub fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&header(kind, payload)?)?;
    to.write_all(payload)
}

/// Reads a frame; `None` at the end of the stream.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let (kind, length) = parse(header)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// [`write()`], in the supervisor.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&header(kind, payload)?).await?;
    to.write_all(payload).await
}

/// [`read`], in the supervisor.
pub async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let (kind, length) = parse(header)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some((kind, payload)))
}

/// The payload of [`Kind::Resize`].
pub fn size_bytes((columns, rows): (u16, u16)) -> [u8; 4] {
    let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
    [a, b, c, d]
}

/// Columns and rows of the payload of [`Kind::Resize`].
pub fn parse_size(payload: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *payload.as_array()?;
    Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let mut stream = Vec::new();
        for kind in Kind::ALL {
            write(&mut stream, kind, b"payload").unwrap();
        }
        let mut stream = stream.as_slice();
        for kind in Kind::ALL {
            assert_eq!(read(&mut stream).unwrap(), Some((kind, b"payload".to_vec())));
        }
        assert_eq!(read(&mut stream).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [&[0, 0, 0, 0, 0][..], &[12, 0, 0, 0, 0], &[1, 1, 0, 16, 0], &[1, 2, 0, 0, 0, 9]] {
            assert!(read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_size_survives_its_bytes() {
        assert_eq!(parse_size(&size_bytes((80, 25))), Some((80, 25)));
        assert_eq!(parse_size(&[1, 2, 3]), None);
    }
}
