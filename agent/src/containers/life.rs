//! How processes begin and end: streams claimed, pipes made, the runtime asked, and each end told.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::container::{Stdio, wire};
use oci_spec::runtime::{Process, Spec};
use rvm_agent_proto as proto;
use tonic::Status;

use crate::console::say;
use crate::containers::table::{Entry, Execution, open_directory};
use crate::containers::translate::{check_id, exit, json, refused, window};
use crate::containers::{State, user};
use crate::descriptor::Descriptor;
use crate::io::{self, Ends};
use crate::reaper::Ending;
use crate::refusal::Refusal;
use crate::streams::no_stream;

/// Makes a container and its first process; gives the process's number.
pub async fn create(state: &Arc<State>, request: proto::CreateRequest) -> Result<u32, Status> {
    check_id(&request.id)?;
    let spec: wire::Container = json("spec", &request.spec)?;
    let mut spec = Spec::try_from(spec).map_err(refused)?;
    // The runtime refuses a specification without a root.
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    if let (Some(wanted), Some(process)) = (&request.user, spec.process_mut()) {
        user::apply(wanted, &open_directory(&root)?, process)?;
    }
    let has_terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or_default();
    let wiring = Wiring::claim(state, request.streams.unwrap_or_default(), has_terminal).await?;
    state.table.check_free(&request.id)?;

    let (stdio, wiring) = wiring.ends()?;
    let mut made = state.runtime.create(&request.id, &spec, stdio).map_err(refused)?;
    let pid = made.what.pid();
    let ending = state.reaper.watch(pid);
    let terminal = match wiring.connect(made.terminal, &ending) {
        Ok(terminal) => terminal,
        Err(refusal) => {
            made.what.delete(true).map_err(refused)?;
            return Err(refusal.into());
        }
    };
    let events = made.what.memory_events().map_err(refused).and_then(|events| {
        Descriptor::new(events)
            .map_err(|err| Refusal::kernel(|| "watch memory.events".to_owned())(err).into())
    });
    match events {
        Ok(events) => {
            tokio::spawn(attend(Arc::clone(state), request.id.clone(), ending.clone(), events));
        }
        Err(status) => {
            made.what.delete(true).map_err(refused)?;
            return Err(status);
        }
    }
    state.table.add(request.id, Entry::new(made.what, ending, terminal, root));
    Ok(pid)
}

/// Runs one more process in a container; gives its number.
pub async fn exec(state: &Arc<State>, request: proto::ExecRequest) -> Result<u32, Status> {
    let proto::ExecRequest { container: id, exec, .. } = request;
    check_id(&exec)?;
    let process: wire::Process = json("process", &request.process)?;
    let mut process = Process::try_from(process).map_err(refused)?;
    state.table.with(&id, |entry| {
        entry.vacancy(&exec)?;
        match &request.user {
            Some(wanted) => Ok(user::apply(wanted, &entry.open_root()?, &mut process)?),
            None => Ok(()),
        }
    })?;
    let has_terminal = process.terminal().unwrap_or_default();
    let wiring = Wiring::claim(state, request.streams.unwrap_or_default(), has_terminal).await?;

    let (stdio, wiring) = wiring.ends()?;
    let (pid, mut ending) = state.table.with(&id, |entry| {
        let made = entry.container.exec(&process, stdio).map_err(refused)?;
        let pid = made.what.pid();
        let ending = state.reaper.watch(pid);
        let terminal = match wiring.connect(made.terminal, &ending) {
            Ok(terminal) => terminal,
            Err(refusal) => {
                made.what.signal(nix::libc::SIGKILL).map_err(refused)?;
                return Err(refusal.into());
            }
        };
        let execution = Execution { process: made.what, ending: ending.clone(), terminal };
        entry.vacancy(&exec)?.insert(execution);
        Ok((pid, ending))
    })?;
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let end = ending.wait().await;
        state.events.exited(&id, &exec, exit(end, state.table.ran_out_of_memory(&id)));
    });
    Ok(pid)
}

/// Tells of the processes that the memory limit ends, and at last of the end of the container's first.
async fn attend(state: Arc<State>, id: String, mut ending: Ending, memory_events: Descriptor) {
    let mut told = 0;
    let end = loop {
        let end = tokio::select! {
            end = ending.wait() => Some(end),
            changed = memory_events.changed() => match changed {
                Ok(()) => None,
                Err(err) => {
                    say(&format!("cannot watch the memory of the container {id}: {err}"));
                    Some(ending.wait().await)
                }
            },
        };
        let kills = state.table.out_of_memory_kills(&id);
        for _ in told..kills {
            state.events.out_of_memory(&id);
        }
        told = told.max(kills);
        if let Some(end) = end {
            break end;
        }
    };
    state.events.exited(&id, "", exit(end, told > 0));
}

/// The host's streams for a process, and its pipes or its terminal.
struct Wiring {
    streams: io::Streams,
    /// Where it has a terminal, its size.
    terminal: Option<crate::container::WindowSize>,
}

/// The same, when the process has its ends.
struct Wired {
    streams: io::Streams,
    ends: Ends,
}

impl Wiring {
    /// Takes the streams that the host opened.
    async fn claim(state: &State, wanted: proto::Streams, has_terminal: bool) -> Result<Self, Status> {
        let proto::Streams { stdin, stdout, stderr, columns, rows } = wanted;
        if has_terminal && stderr != 0 {
            let reason = "a terminal has one output";
            return Err(Refusal::invalid("the stream stderr of a process with a terminal", reason).into());
        }
        let size = window(columns, rows)?;
        let claim = |token| async move {
            match token {
                0 => Ok(None),
                token => state.streams.claim(token).await.map(Some).map_err(no_stream),
            }
        };
        let (stdin, stdout, stderr) = tokio::try_join!(claim(stdin), claim(stdout), claim(stderr))?;
        let streams = io::Streams { stdin, stdout, stderr };
        Ok(Self { streams, terminal: has_terminal.then_some(size) })
    }

    /// What the process gets, and what the agent keeps.
    fn ends(self) -> Result<(Stdio, Wired), Refusal> {
        let (stdio, ends) = match self.terminal {
            Some(size) => (Stdio::Terminal(size), Ends::default()),
            None => io::pipes(&self.streams)
                .map_err(Refusal::kernel(|| "make pipes for the process".to_owned()))?,
        };
        Ok((stdio, Wired { streams: self.streams, ends }))
    }
}

impl Wired {
    /// Begins to copy; gives the terminal's master, to set its size by.
    fn connect(self, master: Option<OwnedFd>, ending: &Ending) -> Result<Option<OwnedFd>, Refusal> {
        let step = || "connect the process with its streams".to_owned();
        let Some(master) = master else {
            io::connect_pipes(self.ends, self.streams, ending).map_err(Refusal::kernel(step))?;
            return Ok(None);
        };
        let kept = master.try_clone().map_err(Refusal::kernel(step))?;
        io::connect_terminal(master, self.streams, ending).map_err(Refusal::kernel(step))?;
        Ok(Some(kept))
    }
}
