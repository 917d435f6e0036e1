//! The control socket: how whoever started a VM hears of it and directs it while it runs.
//!
//! It is one end of a connected Unix socket pair of type SOCK_SEQPACKET, inherited by the VMM. Each packet is one
//! JSON value: a [`Message`] from the VMM, a [`Request`] to it. Unknown fields are refused on both sides.
//!
//! ```text
//!   VMM ──> {"hello": {"version": 1}}                          once, before any file of the VM is opened
//!       ──> {"event": "init_started"}, {"event": "ready"}      as the guest tells; of each the first
//!       <── {"id": 1, "do": "pause"}
//!       ──> {"answer": {"id": 1, "outcome": "done"}}           one for each request, in their order
//!       ──> {"event": {"ended": {"reason": "exited", "status": 0, ...}}}      the last packet
//! ```
//!
//! The VM ends when the other end is closed, however that happens: so that end must be open in no other process,
//! the VMM included (close-on-exec). A VMM that breaks (a bug, a forbidden system call, SIGKILL) closes its end
//! without `ended`; its exit status says more.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::MemorySize;
use crate::options::{OptionError, pairs, value};

/// The version of these types. Another one is another protocol.
pub const CONTROL_VERSION: u32 = 1;
/// Longest packet in either direction, in bytes.
pub const MAX_CONTROL_PACKET: usize = 64 << 10;
/// Most bytes of a captured console that are kept: the last ones.
pub const CONSOLE_TAIL: usize = 4 << 10;

/// The control socket of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The descriptor of the VMM's end, inherited by the VMM.
    pub fd: i32,
}

/// `fd=N`
impl FromStr for Control {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut fd = None;
        for (key, given) in pairs(text, "fd") {
            match key {
                "fd" => fd = Some(value("fd", given)?),
                _ => return Err(OptionError::UnknownKey { key: key.to_owned(), known: "fd" }),
            }
        }
        Ok(Self { fd: fd.ok_or(OptionError::MissingKey("fd"))? })
    }
}

/// A packet from the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// The first packet.
    Hello {
        /// [`CONTROL_VERSION`] of the VMM.
        version: u32,
    },
    /// Something happened to the VM.
    Event(Event),
    /// The answer to a request.
    Answer {
        /// The request's; `null` for a packet that is none.
        id: Option<u64>,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What happens to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The guest's first process runs.
    InitStarted,
    /// The guest is ready for work: its agent listens.
    Ready,
    /// The VM ended, or could not be started.
    Ended(Ended),
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// The exit status of the VMM (docs/exit-status.md), which follows.
    pub status: u8,
    /// The VMM's line about it, if there is one: what was attempted, on what, why, what to do.
    pub message: Option<String>,
    /// The last words of the guest's console, if it is captured; what is no UTF-8 is replaced.
    pub console: Option<String>,
}

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was not started: the message says what cannot be done.
    NotStarted,
    /// The guest powered itself off, and told the exit code that is the status.
    Exited,
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// The guest crashed.
    TripleFault,
    /// KVM, or the host below the VMM, cannot go on.
    Failed,
    /// It was asked to, by [`Command::Stop`] or at the console.
    Stopped,
    /// A signal told the VMM to end.
    Signal,
}

/// A packet to the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Any number: the answer has it too.
    pub id: u64,
    /// What the VMM shall do.
    #[serde(rename = "do")]
    pub command: Command,
}

/// What can be asked of a VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Hold the VM: its vCPUs and devices. Nothing to do for one that is held.
    Pause,
    /// Let it go on. Nothing to do for one that runs.
    Resume,
    /// Answer [`Outcome::Stats`].
    Stats,
    /// Let the memory balloon grow or shrink; the guest does so when it can.
    Balloon {
        /// Its new size. [`crate::MIN_MEMORY`] must be left to the guest.
        size: MemorySize,
    },
    /// Put something on a disk that is a placeholder: what the descriptors are that come with the packet
    /// (SCM_RIGHTS). The guest sees the disk grow. Whether it can be written to is the placeholder's, and so is the
    /// engine.
    ///
    /// They are locked as disks are, but a lock is the open file's: who keeps a descriptor of the same open file keeps
    /// the lock.
    AttachDisk {
        /// The placeholder's.
        id: String,
        /// What the descriptors are.
        layout: Layout,
    },
    /// Take away what was put on a disk that is a placeholder. The guest, which is to have unmounted it, sees the disk
    /// shrink to nothing. Once this is done nothing of it is read or written any more, and its files are closed.
    DetachDisk {
        /// The placeholder's.
        id: String,
    },
    /// Answer [`Outcome::Console`].
    ConsoleTail,
    /// End the VM at once; `ended` follows the answer.
    Stop,
}

/// What the descriptors are that come with [`Command::AttachDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One: the whole disk.
    Whole,
    /// 1 to [`crate::MAX_DISK_PARTS`]: the images of a disk made of parts ([`crate::DiskSource::Parts`]), in their
    /// order. For a read-only placeholder.
    Parts,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is not, because of this; nothing has changed.
    Refused(String),
    /// The VM's counters.
    Stats(Stats),
    /// The last words of the guest's console; what is no UTF-8 is replaced.
    Console(String),
}

/// What a VM has done since its start, and what it takes now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Exits from the guest to the VMM, of all vCPUs.
    pub exits: ExitStats,
    /// The virtio devices, in the order in which the guest finds them.
    pub devices: Vec<DeviceStats>,
    /// Bytes of the host's memory that the guest's memory takes now.
    pub memory: u64,
    /// Bytes in the balloon, as the guest tells: it may tell anything. `null` without a balloon.
    pub balloon: Option<u64>,
}

/// Exits from the guest, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitStats {
    /// Reads of a port.
    pub port_reads: u64,
    /// Writes to a port.
    pub port_writes: u64,
    /// Reads of device memory.
    pub mmio_reads: u64,
    /// Writes to device memory.
    pub mmio_writes: u64,
    /// Kicks and other signals.
    pub interrupted: u64,
    /// Everything else.
    pub other: u64,
}

/// What a device has done. Directions are the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceStats {
    /// Its kind, as "block".
    pub device: String,
    /// Requests, packets or buffers completed.
    pub operations: u64,
    /// Bytes the guest received or read.
    pub bytes_in: u64,
    /// Bytes the guest sent or wrote.
    pub bytes_out: u64,
    /// Requests or packets that failed or were dropped.
    pub errors: u64,
    /// Wake-ups by the driver.
    pub kicks: u64,
    /// Times the device's thread woke up, for whatever reason.
    pub wakeups: u64,
    /// Interrupts given to the driver.
    pub interrupts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: &Message) -> String {
        serde_json::to_string(message).expect("it is written")
    }

    #[test]
    fn messages_are_written_as_the_drawing_shows_them() {
        assert_eq!(json(&Message::Hello { version: 1 }), r#"{"hello":{"version":1}}"#);
        assert_eq!(json(&Message::Event(Event::InitStarted)), r#"{"event":"init_started"}"#);
        let done = Message::Answer { id: Some(1), outcome: Outcome::Done };
        assert_eq!(json(&done), r#"{"answer":{"id":1,"outcome":"done"}}"#);
        let ended = Ended { reason: Reason::Exited, status: 3, message: None, console: None };
        assert_eq!(
            json(&Message::Event(Event::Ended(ended))),
            r#"{"event":{"ended":{"reason":"exited","status":3,"message":null,"console":null}}}"#
        );
    }

    #[test]
    fn requests_are_read_as_the_drawing_shows_them() {
        for (text, command) in [
            (r#"{"id": 7, "do": "pause"}"#, Command::Pause),
            (
                r#"{"id": 7, "do": {"balloon": {"size": "16M"}}}"#,
                Command::Balloon { size: MemorySize::from_mib(16) },
            ),
            (r#"{"id": 7, "do": "console_tail"}"#, Command::ConsoleTail),
            (
                r#"{"id": 7, "do": {"attach_disk": {"id": "layers", "layout": "parts"}}}"#,
                Command::AttachDisk { id: "layers".into(), layout: Layout::Parts },
            ),
            (
                r#"{"id": 7, "do": {"detach_disk": {"id": "layers"}}}"#,
                Command::DetachDisk { id: "layers".into() },
            ),
        ] {
            let request = serde_json::from_str::<Request>(text).expect(text);
            assert_eq!(request, Request { id: 7, command });
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            r#"{"id": 1, "do": "dance"}"#,
            r#"{"id": 1, "do": "pause", "now": true}"#,
            r#"{"id": 1, "do": {"balloon": {"size": 1, "deflate": true}}}"#,
            r#"{"id": -1, "do": "pause"}"#,
            r#"{"do": "pause"}"#,
            "",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
