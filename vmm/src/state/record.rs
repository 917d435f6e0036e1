//! What was asked of a sandbox: everything that its supervisor needs to make it, and that `inspect` shows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rvm_agent_proto::User;
use rvm_config::MemorySize;
use rvm_sandbox::network::{NetworkMode, Publish};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Timestamp;

/// A sandbox as it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among the sandboxes of the user.
    pub name: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// What it runs from.
    pub image: ImageRecord,
    /// The container, as the agent gets it: JSON of the OCI runtime specification.
    pub spec: Value,
    /// Who its first process is.
    pub user: UserRecord,
    /// vCPUs of the VM.
    pub cpus: u8,
    /// Memory of the VM.
    pub memory: MemorySize,
    /// Host name in the guest.
    pub hostname: String,
    /// How it is connected.
    pub network: NetworkMode,
    /// It was asked for by name: without it there is no sandbox.
    pub network_required: bool,
    /// Ports of the host that shall lead into the guest.
    pub publish: Vec<Publish>,
    /// Name servers, instead of the host's.
    pub dns: Vec<std::net::IpAddr>,
    /// Kernel parameters of the guest; those of the container are in `spec`.
    pub sysctls: BTreeMap<String, String>,
    /// Directories and files of the host.
    pub volumes: Vec<Volume>,
    /// Where what may become large is kept: below the data directory, not in memory.
    pub data: PathBuf,
    /// Bytes of the disk that takes what the container writes; without one, that is in memory.
    pub storage_size: Option<u64>,
    /// The process has a terminal.
    pub tty: bool,
    /// Its standard input is held open.
    pub interactive: bool,
    /// Remove the sandbox at its end.
    pub remove: bool,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Seconds that it may run.
    pub timeout: Option<u64>,
}

impl Record {
    /// What the container wrote to its outputs.
    pub fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// The command of the first process.
    pub fn command(&self) -> Vec<&str> {
        let words = self.spec.pointer("/process/args").and_then(Value::as_array);
        words.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The disk that takes what the container writes, if it has one.
    pub fn writable_disk(&self) -> Option<PathBuf> {
        self.storage_size.map(|_| self.data.join("writable"))
    }
}

/// The image of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// As the user named it.
    pub reference: String,
    /// Of its manifest.
    pub digest: String,
    /// The layers, as disk images, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// A directory, or a file, of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// On the host.
    pub source: PathBuf,
    /// It is a file.
    pub file: bool,
    /// In the container.
    pub destination: String,
    /// The guest cannot write.
    pub read_only: bool,
}

/// A user as the command line names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRecord {
    /// `name`, `uid`, `name:group`; empty for root.
    pub user: String,
    /// More groups.
    pub groups: Vec<String>,
}

impl From<UserRecord> for User {
    fn from(record: UserRecord) -> Self {
        let UserRecord { user, groups } = record;
        Self { user, groups }
    }
}
