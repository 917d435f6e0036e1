//! The supervisor: one process a sandbox, from `rvm run` to the sandbox's end. It survives the terminal.
//!
//! ```text
//!  rvm run ── a socket, as standard input ──> supervisor ── spawns ──> VMM (ends with the supervisor)
//!  rvm exec, stop, ... ── DIRECTORY/control ──────┘  └── agent: gRPC and streams, through the VMM's vsock
//! ```
//!
//! [`main`] reads top-down: boot, start, serve until the first process ends, take everything down, tell the end.

mod boot;
mod disk;
pub mod log;
pub mod protocol;
mod relay;
mod sessions;

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rvm_agent_proto::{ShutdownRequest, StartRequest, WaitRequest, WaitResponse};
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::images::Hold;
use rvm_sandbox::machine::{Machine, MachineError};
use rvm_sandbox::network::Network;
use rvm_sandbox::streams::Stdio;
use serde::Serialize;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::Code;

pub use boot::share_target;

use crate::logging;
use crate::state::{Alive, Directory, Phase, Record, Status};
use crate::time::Timestamp;
use boot::{BootError, CONTAINER};
use log::LogWriter;
use protocol::{Exit, Kind, Refusal};
use relay::{Client, Log};

/// Exit statuses of `docker run` for what is not the command's own doing.
pub const STATUS_FAILED: u8 = 125;
const STATUS_NOT_EXECUTABLE: u8 = 126;
const STATUS_NOT_FOUND: u8 = 127;

/// How long the guest may take to write everything to its disks at the end. Generous: what is lost otherwise is the
/// user's.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long the guest may take to deliver SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long output may take to arrive after the end of the process that wrote it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How a sandbox ended.
pub type Outcome = Result<Exit, Refusal>;

/// A sandbox whose first process runs, as sessions see it.
pub struct Sandbox {
    directory: Directory,
    record: Record,
    agent: Agent,
    machine: Machine,
    status: Mutex<Status>,
    /// How many more processes were run in it.
    execs: AtomicU64,
    /// Set when everything is taken down.
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The command that started the supervisor, and those that come later.
struct Commands {
    client: Client,
    reader: OwnedReadHalf,
    listener: UnixListener,
    /// Where every command hears of the end.
    outcome: watch::Receiver<Option<Outcome>>,
    /// Held by whoever still has something to say to a command.
    busy: mpsc::Sender<()>,
}

/// The whole life of a sandbox, whose directory `rvm run` has made. Standard input is the socket to that command.
pub fn main(directory: PathBuf) -> u8 {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(supervise(&Directory::at(directory))));
    match result {
        Ok(()) => 0,
        Err(error) => {
            logging::say(&format!("the supervisor cannot go on: {}", logging::chain(&error)));
            STATUS_FAILED
        }
    }
}

async fn supervise(directory: &Directory) -> io::Result<()> {
    // A session of its own: the terminal's signals, and its end, are not for this process.
    nix::unistd::setsid()?;
    let _alive: Alive = inherited_alive()?;
    let listener = UnixListener::bind(directory.control())?;
    let record = directory.record().map_err(io::Error::other)?;
    let (reader, writer) = first_command()?.into_split();
    let (publish, outcome) = watch::channel(None);
    let (busy, mut all_told) = mpsc::channel(1);
    let client = Client::new(writer, busy.clone());

    let mut status = Status { supervisor: std::process::id(), ..Status::default() };
    let commands = Commands { client: client.clone(), reader, listener, outcome, busy };
    let ended = live(directory, &record, &mut status, commands).await;
    finish(directory, &record, status, &ended);

    publish.send_replace(Some(ended.clone()));
    match &ended {
        Ok(exit) => client.send(Kind::Exit, &json(exit)).await,
        Err(refusal) => client.send(Kind::Error, &json(refusal)).await,
    }
    drop(client);
    // Until everybody is told, or gone: what was written for a command that does not read yet is not lost. Nothing
    // but this process is left of the sandbox meanwhile.
    while all_told.recv().await.is_some() {}
    Ok(())
}

/// The lock that says that the sandbox is alive, on standard output.
fn inherited_alive() -> io::Result<Alive> {
    let alive = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // No process that is started later has it.
    nix::unistd::dup2_stdout(File::create("/dev/null")?)?;
    Ok(alive)
}

/// The command that started this process, on standard input.
fn first_command() -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // No process that is started later has the connection.
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// With a network around it.
async fn live(directory: &Directory, record: &Record, status: &mut Status, commands: Commands) -> Outcome {
    // Before anything is said, so that the layers are held without a gap.
    let _layers_held = Hold::take(record.image.layers.iter().map(PathBuf::as_path)).map_err(failed)?;
    let log = LogWriter::create(&record.log()).map_err(BootError::host("make the log")).map_err(failed)?;
    directory.set_status(status).map_err(failed)?;
    let mut network = boot::open_network(directory, record).await.map_err(failed)?;
    if let Some(notice) = &network.notice {
        commands.client.send(Kind::Stderr, format!("rvm: {notice}\n").as_bytes()).await;
    }
    let outcome = in_network(directory, record, status, commands, &mut network, log).await;
    if let Err(error) = network.close().await {
        logging::say(&format!("the network cannot be taken down: {}", logging::chain(&error)));
    }
    outcome
}

/// With a virtual machine.
async fn in_network(
    directory: &Directory,
    record: &Record,
    status: &mut Status,
    commands: Commands,
    network: &mut Network,
    log: LogWriter,
) -> Outcome {
    let machine = boot::start_machine(directory, record, network).map_err(failed)?;
    status.vmm = machine.pid();
    status.address = network.address.map(|address| address.to_string());
    status.published.clone_from(&network.published);
    let outcome = in_machine(directory, record, status, commands, network, &machine, log).await;
    machine.stop().await;
    outcome
}

/// With a container.
async fn in_machine(
    directory: &Directory,
    record: &Record,
    status: &mut Status,
    commands: Commands,
    network: &Network,
    machine: &Machine,
    log: LogWriter,
) -> Outcome {
    let Commands { client, mut reader, listener, outcome, busy } = commands;
    let attach = sessions::read_attach(&mut reader).await.map_err(failed)?;
    let (agent, stdio) =
        boot::make_container(directory, record, machine, network, attach.size).await.map_err(failed)?;
    let start = StartRequest { container: CONTAINER.to_owned() };
    if let Err(refused) = agent.containers().start(start).await {
        let code = start_status(refused.code());
        return Err(refusal(&AgentError::refused("start the command")(refused), code));
    }
    status.phase = Phase::Running;
    status.started = Some(Timestamp::now());
    directory.set_status(status).map_err(failed)?;
    client.send(Kind::Started, &[]).await;
    give_memory_back();

    let sandbox = Arc::new(Sandbox {
        directory: directory.clone(),
        record: record.clone(),
        agent,
        machine: machine.clone(),
        status: Mutex::new(status.clone()),
        execs: AtomicU64::new(0),
        outcome,
    });
    let sessions = tokio::spawn(sessions::accept(listener, sandbox.clone(), busy));
    let ended = sandbox.attend(stdio, Arc::new(Mutex::new(log)), reader, client).await;
    sessions.abort();
    status.finished = Some(Timestamp::now());
    sandbox.write_back(&ended).await;
    ended
}

/// Has the allocator give back what the preparations took. From here on little is needed, for as long as the sandbox lives.
#[allow(unsafe_code, reason = "malloc_trim(3)")]
fn give_memory_back() {
    // SAFETY: what is in use stays where it is.
    unsafe { libc::malloc_trim(0) };
}

impl Sandbox {
    /// Serves the first process until it has ended and its output has arrived.
    async fn attend(&self, stdio: Stdio, log: Log, reader: OwnedReadHalf, client: Client) -> Outcome {
        let Stdio { stdin, stdout, stderr } = stdio;
        let mut outputs = JoinSet::new();
        if let Some(stdout) = stdout {
            outputs.spawn(relay::output(stdout, Kind::Stdout, Some(log.clone()), client.clone()));
        }
        if let Some(stderr) = stderr {
            outputs.spawn(relay::output(stderr, Kind::Stderr, Some(log), client.clone()));
        }
        let (wishes, inbox) = mpsc::channel(16);
        let input = tokio::spawn(relay::input(reader, stdin, client.clone(), wishes));
        let exit = tokio::select! {
            exit = self.wait("") => exit,
            () = self.grant(String::new(), inbox) => self.wait("").await,
            () = self.time_limit() => self.wait("").await.map(|exit| Exit { out_of_time: true, ..exit }),
            end = self.machine.ended() => Err(failed(MachineError::Ended(Box::new(end)))),
        };
        let exit = match exit {
            Err(refusal) => Err(self.because_of_the_machine(refusal).await),
            exit => exit,
        };
        input.abort();
        client.keep_the_rest();
        // What the process wrote before its end is under way still. A machine that is gone closed its streams.
        let drained = async { while outputs.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_PATIENCE, drained).await.is_err() {
            logging::say("output did not end with the process that wrote it");
        }
        exit
    }

    /// An agent that does not answer any more is a consequence, where the machine ended.
    async fn because_of_the_machine(&self, refusal: Refusal) -> Refusal {
        match tokio::time::timeout(KILL_PATIENCE, self.machine.ended()).await {
            Ok(end) => failed(MachineError::Ended(Box::new(end))),
            Err(_) => refusal,
        }
    }

    /// A name for one more process.
    fn next_exec(&self) -> String {
        format!("exec{}", self.execs.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for the end of a process; the first one has no name.
    async fn wait(&self, exec: &str) -> Outcome {
        let request = WaitRequest { container: CONTAINER.to_owned(), exec: exec.to_owned() };
        let answer = self.agent.containers().wait(request).await;
        let WaitResponse { status, out_of_memory, .. } = answer
            .map_err(AgentError::refused("wait for the end of the process"))
            .map_err(failed)?
            .into_inner();
        // The guest says what it likes; a code has eight bits.
        Ok(Exit { code: u8::try_from(status).unwrap_or(u8::MAX), out_of_memory, out_of_time: false })
    }

    /// Kills the first process when its time is over; never returns before.
    async fn time_limit(&self) {
        match self.record.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
        self.kill().await;
    }

    /// SIGKILL for the first process; where the guest does not do it, the machine ends.
    async fn kill(&self) {
        let killed = tokio::time::timeout(KILL_PATIENCE, self.signal("", libc::SIGKILL)).await;
        if !matches!(killed, Ok(Ok(()))) {
            self.machine.stop().await;
        }
    }

    /// Has the guest write everything to its disks and shares, where there are any that last.
    async fn write_back(&self, ended: &Outcome) {
        let lasting = !self.record.volumes.is_empty() || self.record.storage_size.is_some();
        if !lasting || ended.is_err() {
            return;
        }
        let mut guest = self.agent.sandbox();
        match tokio::time::timeout(SHUTDOWN_PATIENCE, guest.shutdown(ShutdownRequest {})).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                logging::say(&format!("the guest did not write all of its data: {}", status.message()));
            }
            Err(_) => logging::say("the guest did not write all of its data in time"),
        }
    }
}

/// Writes the end down, or removes what is known of the sandbox if that was asked for.
fn finish(directory: &Directory, record: &Record, status: Status, ended: &Outcome) {
    let done = match record.remove {
        true => directory.remove(),
        false => directory.set_status(&over(status, ended)),
    };
    if let Err(error) = done {
        logging::say(&logging::chain(&error));
    }
}

/// What is left to say of a sandbox after its end.
fn over(status: Status, ended: &Outcome) -> Status {
    let finished = status.finished.or_else(|| Some(Timestamp::now()));
    let status = Status { phase: Phase::Exited, supervisor: 0, vmm: 0, finished, ..status };
    match ended {
        Ok(Exit { code, out_of_memory, out_of_time }) => Status {
            exit_code: Some(*code),
            out_of_memory: *out_of_memory,
            out_of_time: *out_of_time,
            ..status
        },
        Err(Refusal { message, status: code }) => {
            Status { exit_code: Some(*code), error: Some(message.clone()), ..status }
        }
    }
}

/// The exit status of a command that the guest did not start.
fn start_status(code: Code) -> u8 {
    match code {
        Code::NotFound => STATUS_NOT_FOUND,
        Code::PermissionDenied => STATUS_NOT_EXECUTABLE,
        _ => STATUS_FAILED,
    }
}

fn failed(error: impl Error + 'static) -> Refusal {
    refusal(&error, STATUS_FAILED)
}

fn refusal(error: &(dyn Error + 'static), status: u8) -> Refusal {
    Refusal { message: logging::chain(error), status }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are written")
}
