//! Containers by the OCI runtime specification 1.2, in a guest: what runs, and how it is asked.
//!
//! ```text
//!            create             start                  end of the first process
//! (nothing) ───────> created ──────────> running ─────────────────────────────> stopped ──> (nothing)
//!                       │                │     ^                                   ^  delete
//!                       │                v     │ resume                            │
//!                       │                paused                                    │
//!                       └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Each call is synchronous and short. The processes that are made are children of the calling process, which
//! has to reap them: nothing here waits for one, and what is known of a process comes from its pidfd.
//!
//! Not here: streams (the caller brings descriptors), events, and who may ask.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::{LinuxResources, Process, Spec};

/// Why a container cannot be what was asked, or do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification has something this runtime does not do.
    #[error("{field} is not supported: {reason}")]
    Unsupported {
        /// As the OCI runtime specification names it.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// The specification says what cannot be meant.
    #[error("{field} of the container's specification is not valid: {reason}")]
    Invalid {
        /// As the OCI runtime specification names it.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a container of this name.
    #[error("the container {0} exists already")]
    Exists(String),
    /// A container in this state cannot do this.
    #[error("cannot {action} the container {id}: it is {state}")]
    State {
        /// Its name.
        id: String,
        /// What was asked.
        action: &'static str,
        /// What it is.
        state: State,
    },
    /// There is no such program in the container.
    #[error("cannot run {program}: there is no such program in the container")]
    NoProgram {
        /// As the specification has it.
        program: String,
    },
    /// The program is there and cannot be executed.
    #[error("cannot run {program}: {source}")]
    NotExecutable {
        /// As the specification has it.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel refused a step.
    #[error("cannot {step}")]
    Kernel {
        /// What was attempted, on what.
        step: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its first process waits for the start.
    Created,
    /// Its first process runs the program.
    Running,
    /// It is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What a process has as standard input, output and error.
#[derive(Debug)]
pub enum Stdio {
    /// These: ends of pipes, or /dev/null.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts, of this size. `process.terminal` says the same.
    Terminal(WindowSize),
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line; 0: not known.
    pub columns: u16,
    /// Lines; 0: not known.
    pub rows: u16,
}

/// A process that was made, and with it the terminal it got.
#[derive(Debug)]
pub struct Made<T> {
    /// The container, or the process in it.
    pub what: T,
    /// The terminal's master, where one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// A process of a container, besides its first.
#[derive(Debug)]
pub struct Executed {
    pid: u32,
    pidfd: OwnedFd,
}

impl Executed {
    /// Its number in the agent's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; 0 sends none. To a process that ended: no error.
    pub fn signal(&self, _signal: i32) -> Result<(), Error> {
        let _ = &self.pidfd;
        Err(not_yet())
    }
}

/// What makes containers.
#[derive(Debug)]
pub struct Runtime {
    /// The program that is run, as `PROGRAM container-child`, for what needs a process of one thread.
    program: PathBuf,
    /// Where cgroup v2 is mounted; each container's group is made below it.
    cgroups: PathBuf,
}

impl Runtime {
    /// The runtime of a guest: this program, and /sys/fs/cgroup.
    pub fn of_guest() -> Self {
        Self::new("/proc/self/exe", "/sys/fs/cgroup")
    }

    /// A runtime that runs `program` (which has to call [`child`]), and has its groups below `cgroups`.
    pub fn new(program: impl Into<PathBuf>, cgroups: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), cgroups: cgroups.into() }
    }

    /// Makes a container and its first process, which waits for the start.
    pub fn create(&self, _id: &str, _spec: &Spec, _stdio: Stdio) -> Result<Made<Container>, Error> {
        let _ = (&self.program, &self.cgroups);
        Err(not_yet())
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    pid: u32,
    cgroup: PathBuf,
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of its first process in the agent's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its group's directory.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where it is in its life, by what the kernel says of its first process.
    pub fn state(&self) -> State {
        State::Stopped
    }

    /// Lets the first process run the program. After an error the container is stopped.
    pub fn start(&mut self) -> Result<(), Error> {
        Err(not_yet())
    }

    /// Runs one more process.
    pub fn exec(&self, _process: &Process, _stdio: Stdio) -> Result<Made<Executed>, Error> {
        Err(not_yet())
    }

    /// Sends the first process a signal; 0 sends none. To a process that ended: no error.
    pub fn signal(&self, _signal: i32) -> Result<(), Error> {
        Err(not_yet())
    }

    /// Sends each process of the container a signal.
    pub fn signal_all(&self, _signal: i32) -> Result<(), Error> {
        Err(not_yet())
    }

    /// Freezes it. No error if it is paused.
    pub fn pause(&mut self) -> Result<(), Error> {
        Err(not_yet())
    }

    /// Lets it go on. No error if it is running.
    pub fn resume(&mut self) -> Result<(), Error> {
        Err(not_yet())
    }

    /// Changes its limits: `linux.resources`; what is left out stays.
    pub fn update(&self, _resources: &LinuxResources) -> Result<(), Error> {
        Err(not_yet())
    }

    /// What it uses.
    pub fn stats(&self) -> Result<Stats, Error> {
        Err(not_yet())
    }

    /// Its processes, by their numbers in the agent's pid namespace.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        Err(not_yet())
    }

    /// memory.events of its group, opened to be polled (POLLPRI says that it changed).
    pub fn memory_events(&self) -> Result<OwnedFd, Error> {
        Err(not_yet())
    }

    /// How many processes the kernel ended because the memory limit was reached.
    pub fn out_of_memory_kills(&self) -> Result<u64, Error> {
        Err(not_yet())
    }

    /// Removes what is left of a stopped container; `force`: ends every process of it first. The value is of no
    /// use afterwards.
    pub fn delete(&mut self, _force: bool) -> Result<(), Error> {
        Err(not_yet())
    }
}

/// What a container uses, from its group's files (Linux: Documentation/admin-guide/cgroup-v2.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// cpu.stat
    pub cpu: CpuStats,
    /// memory.*
    pub memory: MemoryStats,
    /// pids.*
    pub pids: PidsStats,
    /// A line of io.stat each.
    pub io: Vec<IoStats>,
}

/// cpu.stat, times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct CpuStats {
    pub usage_us: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_us: u64,
}

/// memory.current, memory.max, memory.peak, memory.swap.current, memory.stat and memory.events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct MemoryStats {
    pub current_bytes: u64,
    /// `None`: there is none.
    pub limit_bytes: Option<u64>,
    pub peak_bytes: u64,
    pub swap_bytes: u64,
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub inactive_file_bytes: u64,
    pub kernel_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub oom_events: u64,
    pub oom_kills: u64,
}

/// pids.current and pids.max.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Processes and threads.
    pub current: u64,
    /// `None`: there is none.
    pub limit: Option<u64>,
}

/// A line of io.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct IoStats {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Gives a terminal, by its master, a size.
pub fn resize(_terminal: &OwnedFd, _size: WindowSize) -> Result<(), Error> {
    Err(not_yet())
}

/// The first argument of the program when it is to call [`child`] and end.
pub const CHILD: &str = "container-child";

/// What the program does that [`Runtime`] runs: it takes an order from standard input.
pub fn child() -> ExitCode {
    ExitCode::FAILURE
}

fn not_yet() -> Error {
    Error::Unsupported { field: "this call".to_owned(), reason: "it is being written" }
}
