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
//! The way of a container: its specification is checked ([`plan`]), its group is made ([`cgroup`]), and a process of
//! one thread ([`child()`]) makes the rest and becomes the user's program.
//!
//! Not here: streams (the caller brings descriptors), events, and who may ask.

mod cgroup;
mod channel;
mod child;
mod error;
mod plan;
mod process;
mod seccomp;
mod sys;
pub mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::{LinuxResources, Process, Spec};

use cgroup::Group;
pub use cgroup::stats::{CpuStats, IoStats, MemoryStats, PidsStats, Stats};
use channel::Order;
pub use error::Error;
use plan::Plan;
use plan::namespaces::IdMaps;
pub use process::{Executed, Stdio, WindowSize};

/// The first argument of the program when it is to call [`child()`] and end.
pub const CHILD: &str = "container-child";

/// What the program does that [`Runtime`] runs: it takes an order from standard input.
pub fn child() -> ExitCode {
    child::main()
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

impl State {
    fn can_start(self) -> bool {
        self == Self::Created
    }

    fn can_execute(self) -> bool {
        self == Self::Running
    }

    fn can_pause(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    fn can_delete(self) -> bool {
        self == Self::Stopped
    }
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

/// Something that was made, and the terminal it got.
#[derive(Debug)]
pub struct Made<T> {
    /// The container, or the process in it.
    pub what: T,
    /// The terminal's master, where one was asked for. It does not block.
    pub terminal: Option<OwnedFd>,
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

    /// A runtime that runs `program` (which has to call [`child()`]), and has its groups below `cgroups`.
    pub fn new(program: impl Into<PathBuf>, cgroups: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), cgroups: cgroups.into() }
    }

    /// Makes a container and its first process, which waits for the start. `id` is a file's name.
    pub fn create(&self, id: &str, spec: &Spec, stdio: Stdio) -> Result<Made<Container>, Error> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err(Error::invalid("id", format!("{id:?} is no name of a container")));
        }
        let plan = Plan::of(id, spec, stdio.is_terminal())?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
        let group = Group::make(&self.cgroups, id, &resources)?;

        let namespaces = plan.namespaces.all();
        let (process, id_maps) = (plan.process.clone(), plan.id_maps.clone());
        let bound = plan.bound();
        let order = Order::Create(Box::new(plan));
        match process::make(&self.program, &order, &process, &[group.as_fd()], id_maps.as_ref(), stdio) {
            Ok(Made { what: first, terminal }) => {
                let program = self.program.clone();
                let phase = Phase::Created;
                let id = id.to_owned();
                let container =
                    Container { id, program, namespaces, id_maps, bound, process, group, first, phase };
                Ok(Made { what: container, terminal })
            }
            Err(err) => {
                // The error that made it useless is the one to tell; a group that is left is in nobody's way but
                // that of the same name.
                let _ = group.kill().and_then(|()| group.remove());
                Err(err)
            }
        }
    }
}

/// What was asked of a container; what became of it, its first process tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Started,
    Paused,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    program: PathBuf,
    /// CLONE_NEW* of those that further processes join.
    namespaces: i32,
    /// Of its user namespace, if it has one.
    id_maps: Option<IdMaps>,
    /// What of the guest's is bound into it.
    bound: Vec<PathBuf>,
    /// The first process, as others take after it.
    process: plan::process::ProcessPlan,
    group: Group,
    first: process::Waiting,
    phase: Phase,
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of its first process in the agent's pid namespace.
    pub fn pid(&self) -> u32 {
        self.first.process().pid()
    }

    /// Its group's directory.
    pub fn cgroup(&self) -> &Path {
        self.group.path()
    }

    /// Where it is in its life, by what the kernel says of its first process.
    pub fn state(&self) -> State {
        match self.phase {
            _ if self.first.process().has_ended() => State::Stopped,
            Phase::Created => State::Created,
            Phase::Started => State::Running,
            Phase::Paused => State::Paused,
        }
    }

    fn check(&self, action: &'static str, can: fn(State) -> bool) -> Result<(), Error> {
        let state = self.state();
        if can(state) { Ok(()) } else { Err(Error::State { id: self.id.clone(), action, state }) }
    }

    /// Lets the first process run the program. After an error the container is stopped.
    pub fn start(&mut self) -> Result<(), Error> {
        self.check("start", State::can_start)?;
        self.phase = Phase::Started;
        for path in &self.bound {
            // The host may have written it since, as Docker does /etc/hosts once the network is there. What is not at its path
            // any more is bound all the same, and no reason not to start.
            let _ = sys::ask_anew(path);
        }
        self.first.go()
    }

    /// Runs one more process.
    pub fn exec(&self, process: &Process, stdio: Stdio) -> Result<Made<Executed>, Error> {
        self.check("run a process in", State::can_execute)?;
        let process = self.process.beside(process, stdio.is_terminal())?;
        let namespaces = self.namespaces;
        let order = Order::Execute { namespaces, process: Box::new(process.clone()) };
        let descriptors = [self.group.as_fd(), self.first.process().as_fd()];
        let Made { what: mut waiting, terminal } =
            process::make(&self.program, &order, &process, &descriptors, self.id_maps.as_ref(), stdio)?;
        waiting.go()?;
        Ok(Made { what: waiting.into_process(), terminal })
    }

    /// Sends the first process a signal; 0 sends none. To a process that ended: no error.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.first.process().signal(signal)
    }

    /// Sends each process of the container a signal.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal == libc::SIGKILL {
            return self.group.kill();
        }
        for pid in self.group.processes()? {
            match sys::open_process(pid).and_then(|process| sys::signal_process(process.as_fd(), signal)) {
                // It ended meanwhile.
                Err(err) if matches!(err.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {}
                sent => sent.map_err(Error::at(format!("send signal {signal} to process {pid}")))?,
            }
        }
        Ok(())
    }

    /// Freezes it. No error if it is paused.
    pub fn pause(&mut self) -> Result<(), Error> {
        self.check("pause", State::can_pause)?;
        self.group.freeze(true)?;
        self.phase = Phase::Paused;
        Ok(())
    }

    /// Lets it go on. No error if it is running.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.check("resume", State::can_pause)?;
        self.group.freeze(false)?;
        self.phase = Phase::Started;
        Ok(())
    }

    /// Changes its limits: `linux.resources`; what is left out stays.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        self.group.update(resources)
    }

    /// What it uses.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.group.stats()
    }

    /// Its processes, by their numbers in the agent's pid namespace.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        self.group.processes()
    }

    /// memory.events of its group, opened to be polled (POLLPRI says that it changed).
    pub fn memory_events(&self) -> Result<OwnedFd, Error> {
        self.group.memory_events()
    }

    /// How many processes the kernel ended because the memory limit was reached.
    pub fn out_of_memory_kills(&self) -> Result<u64, Error> {
        self.group.out_of_memory_kills()
    }

    /// Removes what is left of a stopped container; `force`: ends every process of it first. The value is of no
    /// use afterwards.
    pub fn delete(&mut self, force: bool) -> Result<(), Error> {
        if !force {
            self.check("delete", State::can_delete)?;
        }
        // Also where the first process has ended: without a pid namespace of its own it leaves others behind.
        self.group.kill()?;
        self.group.remove()
    }
}

/// Gives a terminal, by its master, a size.
pub fn resize(terminal: impl AsFd, size: WindowSize) -> Result<(), Error> {
    sys::set_window_size(terminal.as_fd(), size.columns, size.rows)
        .map_err(Error::at("set the size of the terminal"))
}
