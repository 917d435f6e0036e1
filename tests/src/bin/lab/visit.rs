//! One use of a lab: what it is like and what it finds inside, gathered and then started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use crate::machine::{Console, End, Machine, OnMessage, SILENCE_LIMIT};
use crate::payload::Payload;
use crate::protocol::{Job, Work};
use crate::systems::System;

/// vCPUs of a lab unless told otherwise.
const CPUS: u32 = 1;

/// What a lab is like and what is in it.
#[derive(Args)]
pub struct Surroundings {
    /// Put this file or directory at /pay/NAME (/pay is in PATH); SOURCE:NAME to name it.
    #[arg(long = "with", value_name = "SOURCE[:NAME]")]
    pub with: Vec<String>,
    /// Attach this image as a disk; $RVM_DISK_NAME inside says where it is.
    #[arg(long = "disk", value_name = "NAME=FILE")]
    pub disks: Vec<String>,
    /// Count instructions: one vCPU, and a nanosecond of lab time for each.
    #[arg(long)]
    pub deterministic: bool,
    /// The lab's system: `host`, of Debian testing, or `stable`.
    #[arg(long, default_value = System::Testing.image())]
    pub host: String,
    /// vCPUs of the lab.
    #[arg(long, default_value_t = CPUS, conflicts_with = "deterministic")]
    pub cpus: u32,
    /// Memory of the lab, in MiB.
    #[arg(long, default_value_t = 6144)]
    pub memory: u64,
}

impl Surroundings {
    /// What tests and benchmarks find, in a lab of this system.
    pub fn of(system: System) -> Self {
        let host = system.image().to_owned();
        Self { with: Vec::new(), disks: Vec::new(), deterministic: false, host, cpus: CPUS, memory: 6144 }
    }
}

/// A lab that is about to start.
pub struct Visit {
    /// Sockets, logs and the payload; gone afterwards, but for the logs of a lab that ended badly.
    directory: tempfile::TempDir,
    pub payload: Payload,
    machine: Machine,
}

impl Visit {
    pub fn prepare(surroundings: &Surroundings) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rvm-lab-").tempdir()?;
        let payload = Payload::new(directory.path().join("payload"))?;
        payload.add_artifacts()?;
        for with in &surroundings.with {
            let (source, name) = match with.split_once(':') {
                Some((source, name)) => (Path::new(source), name.to_owned()),
                None => {
                    let source = Path::new(with);
                    let name = source.file_name().map(|name| name.to_string_lossy().into_owned());
                    (source, name.ok_or_else(|| io::Error::other(format!("{with} has no file name")))?)
                }
            };
            payload.add(source, &name)?;
        }
        let mut disks = Vec::new();
        for disk in &surroundings.disks {
            let (name, file) = disk
                .split_once('=')
                .ok_or_else(|| io::Error::other(format!("--disk {disk}: expected NAME=FILE")))?;
            disks.push((name.to_owned(), PathBuf::from(file)));
        }
        let emulator = if surroundings.deterministic { "qemu-bench" } else { "qemu" };
        let machine = Machine {
            qemu: image(emulator)?.join("qemu-system-x86_64"),
            image: image(&surroundings.host)?,
            payload: directory.path().join("payload.img"),
            disks,
            deterministic: surroundings.deterministic,
            cpus: surroundings.cpus,
            memory: surroundings.memory,
            console: Console::Log,
            timeout: None,
            silence: SILENCE_LIMIT,
        };
        Ok(Self { directory, payload, machine })
    }

    pub fn silence_limit(&mut self, limit: Duration) {
        self.machine.silence = limit;
    }

    /// Starts the lab with this job and waits for its end.
    pub fn start(
        mut self,
        work: Work,
        timeout: Option<Duration>,
        on_message: OnMessage<'_>,
    ) -> io::Result<End> {
        if matches!(work, Work::Shell { .. }) {
            self.machine.console = Console::Terminal;
        }
        self.machine.timeout = timeout;
        let job = Job { beat: !self.machine.deterministic, work };
        self.payload.finish(&job, &self.machine.payload)?;
        let end = self.machine.run(self.directory.path(), on_message);
        let expected = matches!(end, Ok(End::Done(_) | End::Interrupted(_)));
        if self.machine.console == Console::Log && !expected {
            fs::remove_file(&self.machine.payload)?;
            let console = self.directory.keep().join("console.log");
            eprintln!("lab: its console is in {}", console.display());
        }
        end
    }
}

/// The directory of one of the lab's images, which is built if it is not in the cache.
pub fn image(name: &str) -> io::Result<PathBuf> {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/build"))
        .arg(name)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("the lab has no {name} image")));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
