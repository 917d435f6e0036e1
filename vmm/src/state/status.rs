//! How a sandbox stands, as its supervisor writes it down.

use rvm_sandbox::network::Published;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What a sandbox is at. Only forward, but for pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its VM is being made.
    #[default]
    Created,
    /// Its command runs.
    Running,
    /// Its VM is held.
    Paused,
    /// Its command ended, or was never started.
    Exited,
}

impl Phase {
    /// Whether nothing of the sandbox runs any more.
    pub fn is_over(self) -> bool {
        self == Self::Exited
    }
}

/// How a sandbox stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// What it is at.
    pub phase: Phase,
    /// Process of the supervisor; 0 before it is there.
    pub supervisor: u32,
    /// Process of the VMM; 0 before it is there.
    pub vmm: u32,
    /// When the command was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Exit code, or 128 + signal; as Docker has it, 125 to 127 for a command that could not be started.
    pub exit_code: Option<u8>,
    /// The memory limit was reached.
    pub out_of_memory: bool,
    /// It was killed because its time was over.
    pub out_of_time: bool,
    /// Why there is no exit code of the command's own.
    pub error: Option<String>,
    /// The guest's address on the host's network.
    pub address: Option<String>,
    /// Ports of the host that lead into the guest.
    pub published: Vec<Published>,
}

/// Exit code of a container whose supervisor was killed: what the kernel says of a process that was.
pub const KILLED: u8 = 137;

impl Status {
    /// What is to be said of a sandbox whose supervisor is gone without having written its end.
    pub(super) fn orphaned(self) -> Self {
        Self {
            phase: Phase::Exited,
            exit_code: Some(KILLED),
            error: Some("its supervisor was killed".to_owned()),
            ..self
        }
    }
}
