//! What the outside and the inside of the lab say to each other.
//!
//! The outside leaves a [`Job`] on the payload disk (`/pay/job.json`). The inside answers with [`Message`]s over a
//! virtio-serial port, one JSON object a line. One of them is a question, [`Message::Free`]; its answer comes the same way.
//! The lab is this project's own machine, so a line that cannot be read is an error and not an attack.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::systems::System;

/// Name of the virtio-serial port that carries [`Message`]s.
pub const PORT: &str = "rvm.control";

/// Where the payload disk is mounted inside the lab.
pub const PAYLOAD: &str = "/pay";

/// What the inside has to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub work: Work,
    /// Whether to tell the outside now and then that the lab lives. Not while instructions are counted.
    pub beat: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Work {
    /// Each test in a process of its own, when its number comes.
    Tests(Plan),
    /// One program, its output passed out as it comes.
    Command { argv: Vec<String> },
    /// A shell on the serial console, whose terminal has this size.
    Shell { rows: u16, columns: u16 },
}

/// Tests to run, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub tests: Vec<Test>,
    /// How many run at a time.
    pub jobs: usize,
    /// Seconds after which a test is killed.
    pub timeout: u64,
}

/// One test function of a libtest program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// The program's name in reports.
    pub suite: String,
    pub program: PathBuf,
    /// The directory to run in.
    pub directory: PathBuf,
    /// The name libtest knows it by.
    pub name: String,
    /// The system of the labs that it runs in. On a machine whose own KVM is real only those of [`System::Testing`] run.
    pub system: System,
}

impl Test {
    /// What reports and filters call it.
    pub fn full_name(&self) -> String {
        format!("{}{} {}", self.suite, self.system.suffix(), self.name)
    }
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Passed,
    /// With what went wrong, in a few words.
    Failed(String),
    TimedOut,
    /// With the reason the test gave.
    CouldNotRun(String),
}

impl Outcome {
    /// Why it counts as failed, of a test that ran for this long; `None` if it does not.
    pub fn failure(&self, time: Duration) -> Option<String> {
        match self {
            Self::Failed(reason) => Some(reason.clone()),
            Self::TimedOut => Some(format!("killed after {} s", time.as_secs())),
            Self::Passed | Self::CouldNotRun(_) => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The lab is up, with this kernel, so many milliseconds after its kernel started.
    Up { kernel: String, millis: u64 },
    /// The lab lives.
    Beat,
    /// There is a place for a test. The answer is the number of the one to run in the plan, or `null`: there are no more.
    Free,
    /// Test number so-and-so of the plan has ended.
    Ended { test: usize, outcome: Outcome, millis: u64, output: String },
    /// What the command wrote.
    Output { stream: Stream, bytes: Bytes },
    /// A file the job left in its output directory.
    File { name: String, bytes: Bytes },
    /// The job is over, with this exit status. Nothing follows.
    Done { status: i32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Bytes as a JSON string: each byte is the character of the same number (ISO 8859-1), so text stays readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().copied().map(char::from).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .chars()
            .map(|c| u8::try_from(c).map_err(|_| serde::de::Error::custom("a character beyond one byte")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{Bytes, Message};

    #[test]
    fn every_byte_survives_a_json_line() {
        let bytes = Bytes((0..=255).collect());
        let line = serde_json::to_string(&bytes).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Bytes>(&line).unwrap(), bytes);
    }

    #[test]
    fn a_character_that_is_no_byte_is_refused() {
        assert!(serde_json::from_str::<Bytes>("\"\u{20ac}\"").is_err());
    }

    #[test]
    fn a_torn_line_is_an_error() {
        assert!(serde_json::from_str::<Message>("{\"Done\":{\"sta").is_err());
    }
}
