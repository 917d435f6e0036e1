//! The containers there are, and the processes that were run in them.

use std::collections::HashMap;
use std::collections::hash_map;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::container::{Container, Executed};
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use tonic::Status;

use crate::containers::translate::refused;
use crate::reaper::Ending;
use crate::refusal::Refusal;

/// All containers, by their ids.
#[derive(Debug, Default)]
pub struct Table(Mutex<HashMap<String, Entry>>);

/// A container, its first process, and the others that the host had run in it.
#[derive(Debug)]
pub struct Entry {
    /// As the runtime has it.
    pub container: Container,
    /// Of its first process.
    pub ending: Ending,
    /// Of its first process, where it has one.
    pub terminal: Option<OwnedFd>,
    /// The root of its file system, as the agent sees it.
    root: PathBuf,
    executions: HashMap<String, Execution>,
}

/// A process that the host had run in a container.
#[derive(Debug)]
pub struct Execution {
    /// As the runtime has it.
    pub process: Executed,
    /// Its end.
    pub ending: Ending,
    /// Where it has one.
    pub terminal: Option<OwnedFd>,
}

impl Table {
    /// Does something with a container.
    pub fn with<T>(&self, id: &str, work: impl FnOnce(&mut Entry) -> Result<T, Status>) -> Result<T, Status> {
        match self.lock().get_mut(id) {
            Some(entry) => work(entry),
            None => Err(absent(id)),
        }
    }

    /// Refuses an id that is taken.
    pub fn check_free(&self, id: &str) -> Result<(), Refusal> {
        match self.lock().contains_key(id) {
            true => Err(Refusal::Taken(format!("the id {id} of a container"))),
            false => Ok(()),
        }
    }

    /// Adds a container under an id that is free.
    pub fn add(&self, id: String, entry: Entry) {
        self.lock().insert(id, entry);
    }

    /// Removes a container that has stopped, or ends it first.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Status> {
        let mut table = self.lock();
        let entry = table.get_mut(id).ok_or_else(|| absent(id))?;
        entry.container.delete(force).map_err(refused)?;
        table.remove(id);
        Ok(())
    }

    /// Whether the kernel has ended a process of a container for want of memory.
    pub fn ran_out_of_memory(&self, id: &str) -> bool {
        self.out_of_memory_kills(id) > 0
    }

    /// How many processes of a container the kernel has ended for want of memory; 0 of one that is gone.
    pub fn out_of_memory_kills(&self, id: &str) -> u64 {
        self.lock().get(id).and_then(|entry| entry.container.out_of_memory_kills().ok()).unwrap_or_default()
    }

    /// Takes all of them out.
    pub fn take_all(&self) -> HashMap<String, Entry> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Each change is complete in itself; a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absent(id: &str) -> Status {
    Refusal::Absent(format!("container {id}")).into()
}

/// A directory of the guest, to look below it.
pub fn open_directory(path: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(Refusal::kernel(|| format!("open {}", path.display())))
}

impl Entry {
    /// A container with its first process.
    pub fn new(container: Container, ending: Ending, terminal: Option<OwnedFd>, root: PathBuf) -> Self {
        Self { container, ending, terminal, root, executions: HashMap::new() }
    }

    /// The root of the container's file system, with all that is mounted in it while it has a process.
    pub fn open_root(&self) -> Result<OwnedFd, Refusal> {
        let path = match self.ending.now() {
            None => PathBuf::from(format!("/proc/{}/root", self.container.pid())),
            Some(_) => self.root.clone(),
        };
        open_directory(&path)
    }

    /// The place of a process that is to be run, if its name is free.
    pub fn vacancy(&mut self, exec: &str) -> Result<hash_map::VacantEntry<'_, String, Execution>, Refusal> {
        match self.executions.entry(exec.to_owned()) {
            hash_map::Entry::Vacant(place) => Ok(place),
            hash_map::Entry::Occupied(_) => Err(Refusal::Taken(format!("the id {exec} of a process"))),
        }
    }

    /// A process that was run.
    pub fn execution(&self, exec: &str) -> Result<&Execution, Refusal> {
        self.executions.get(exec).ok_or_else(|| Refusal::Absent(format!("process {exec} in the container")))
    }

    /// The end of a process; of the first one where there is no name.
    pub fn ending(&self, exec: &str) -> Result<Ending, Status> {
        match exec {
            "" => Ok(self.ending.clone()),
            exec => Ok(self.execution(exec)?.ending.clone()),
        }
    }

    /// The terminal of a process; of the first one where there is no name.
    pub fn terminal(&self, exec: &str) -> Result<&OwnedFd, Status> {
        let terminal = match exec {
            "" => &self.terminal,
            exec => &self.execution(exec)?.terminal,
        };
        terminal.as_ref().ok_or_else(|| Status::failed_precondition("the process has no terminal"))
    }

    /// Forgets a process that has ended, or ends it first.
    pub fn forget(&mut self, exec: &str, force: bool) -> Result<(), Status> {
        let execution = self.execution(exec)?;
        match (execution.ending.now(), force) {
            (Some(_), _) => {}
            (None, true) => execution.process.signal(libc::SIGKILL).map_err(refused)?,
            (None, false) => {
                let message = format!("cannot forget the process {exec}: it is running");
                return Err(Status::failed_precondition(message));
            }
        }
        self.executions.remove(exec);
        Ok(())
    }

    /// The processes that were run and still do: their numbers, and their names.
    pub fn execution_pids(&self) -> HashMap<u32, &str> {
        let running = self.executions.iter().filter(|(_, execution)| execution.ending.now().is_none());
        running.map(|(name, execution)| (execution.process.pid(), name.as_str())).collect()
    }
}
