//! Commands that come to a supervisor: one connection each, one request each.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rvm_agent_proto::{
    ExecRequest, MetricsRequest, PauseRequest, ProcessesRequest, ReadArchiveRequest, ResizeRequest,
    ResumeRequest, SignalRequest, StatsRequest, WriteArchiveRequest,
};
use rvm_config::control::{Command, Outcome as VmmOutcome};
use rvm_sandbox::agent::AgentError;
use rvm_sandbox::streams::{self, Stdio};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::boot::{self, CONTAINER};
use super::protocol::{Exec, Exit, Kind, MAX_PAYLOAD, Refusal, Reply, Request, Usage};
use super::relay::{self, Client, Wish};
use super::{Outcome, Sandbox, failed, json, refusal, start_status};
use crate::logging;
use crate::state::Phase;

/// Takes commands as long as the first process runs. Each holds `busy` until it is answered.
pub(super) async fn accept(listener: UnixListener, sandbox: Arc<Sandbox>, busy: mpsc::Sender<()>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (sandbox, busy) = (sandbox.clone(), busy.clone());
                tokio::spawn(async move { serve(stream, &sandbox, busy).await });
            }
            // Out of descriptors; somebody will close one.
            Err(error) => {
                logging::say(&format!("cannot accept a command: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What `rvm run` asks for on the connection that the supervisor is born with.
pub(super) struct Attach {
    /// Of its terminal: columns, rows.
    pub size: Option<(u16, u16)>,
}

/// Reads the first command's request.
pub(super) async fn read_attach(from: &mut OwnedReadHalf) -> io::Result<Attach> {
    match read_request(from).await? {
        Request::Attach { size } => Ok(Attach { size }),
        _ => Err(io::Error::other("the first request must be to attach")),
    }
}

async fn read_request(from: &mut OwnedReadHalf) -> io::Result<Request> {
    let mut line = Vec::new();
    // Byte by byte: what follows the line are frames.
    while !line.ends_with(b"\n") {
        if line.len() > MAX_PAYLOAD {
            return Err(io::Error::other("a request that is too long"));
        }
        line.push(from.read_u8().await?);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Answers the one request of a command.
async fn serve(stream: UnixStream, sandbox: &Sandbox, busy: mpsc::Sender<()>) {
    let (mut reader, writer) = stream.into_split();
    let client = Client::new(writer, busy);
    let answer = match read_request(&mut reader).await {
        Ok(request) => sandbox.answer(request, reader, &client).await,
        // One that only asks whether somebody is there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Err(error) => Err(failed(error)),
    };
    match answer {
        Ok(Answer::Reply(reply)) => client.send(Kind::Reply, &json(&reply)).await,
        Ok(Answer::Exit(exit)) => client.send(Kind::Exit, &json(&exit)).await,
        Err(refusal) => client.send(Kind::Error, &json(&refusal)).await,
    }
}

/// The last word to a command.
enum Answer {
    Reply(Reply),
    Exit(Exit),
}

impl Sandbox {
    async fn answer(
        &self,
        request: Request,
        reader: OwnedReadHalf,
        client: &Client,
    ) -> Result<Answer, Refusal> {
        match request {
            Request::Attach { .. } => Err(failed(io::Error::other("only `rvm run` attaches to a container"))),
            Request::Exec(exec) => self.exec(*exec, reader, client.clone()).await,
            Request::Signal(signal) => self.signal("", signal).await.map_err(failed).and(done()),
            Request::Stop { signal, timeout } => self.stop(signal, Duration::from_secs(timeout)).await,
            Request::Pause => self.pause().await,
            Request::Resume => self.resume().await,
            Request::Wait => self.outcome().await.map(Answer::Exit),
            Request::Stats => self.usage().await.map(|usage| Answer::Reply(Reply::Stats(Box::new(usage)))),
            Request::Processes => self.processes().await,
            Request::CopyOut { path, follow } => self.copy_out(path, follow, client.clone()).await,
            Request::CopyIn { path } => self.copy_in(path, reader, client.clone()).await,
        }
    }

    /// Sends a signal to a process; the first one has no name.
    pub(super) async fn signal(&self, exec: &str, signal: i32) -> Result<(), AgentError> {
        let request = SignalRequest {
            container: CONTAINER.to_owned(),
            exec: exec.to_owned(),
            // The agent refuses what is no signal.
            signal: u32::try_from(signal).unwrap_or(u32::MAX),
            all: false,
        };
        self.agent.containers().signal(request).await.map_err(AgentError::refused("send the signal"))?;
        Ok(())
    }

    /// Asks the first process to end, then kills it; answers when everything is taken down.
    async fn stop(&self, signal: Option<i32>, patience: Duration) -> Result<Answer, Refusal> {
        let mut ended = self.outcome.clone();
        if !patience.is_zero() {
            // Frozen processes take no signal but SIGKILL.
            self.resume().await?;
            self.signal("", signal.unwrap_or(self.record.stop_signal)).await.map_err(failed)?;
        }
        if tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await.is_err() {
            self.kill().await;
        }
        // What the command came to is not this command's concern.
        self.outcome().await.ok();
        done()
    }

    /// Waits until everything is taken down.
    async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(failed(io::Error::other("the supervisor ended"))),
        }
    }

    async fn pause(&self) -> Result<Answer, Refusal> {
        let request = PauseRequest { container: CONTAINER.to_owned() };
        self.agent.containers().pause(request).await.map_err(AgentError::refused("pause")).map_err(failed)?;
        self.set_phase(Phase::Paused)
    }

    async fn resume(&self) -> Result<Answer, Refusal> {
        let request = ResumeRequest { container: CONTAINER.to_owned() };
        self.agent
            .containers()
            .resume(request)
            .await
            .map_err(AgentError::refused("go on"))
            .map_err(failed)?;
        self.set_phase(Phase::Running)
    }

    fn set_phase(&self, phase: Phase) -> Result<Answer, Refusal> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.phase = phase;
        self.directory.set_status(&status).map_err(failed)?;
        done()
    }

    async fn usage(&self) -> Result<Usage, Refusal> {
        let request = StatsRequest { container: CONTAINER.to_owned() };
        let refused = AgentError::refused("tell what it uses");
        let stats = self.agent.containers().stats(request).await.map_err(refused).map_err(failed)?;
        let mut usage = Usage::from(stats.into_inner());
        let refused = AgentError::refused("tell what it uses");
        let metrics =
            self.agent.sandbox().metrics(MetricsRequest {}).await.map_err(refused).map_err(failed)?;
        for interface in metrics.into_inner().interfaces.iter().filter(|interface| interface.name != "lo") {
            usage.net.0 = usage.net.0.saturating_add(interface.received_bytes);
            usage.net.1 = usage.net.1.saturating_add(interface.sent_bytes);
        }
        let attempt = "tell its counters";
        if let VmmOutcome::Stats(stats) = self.machine.ask(attempt, Command::Stats).await.map_err(failed)? {
            usage.vm_memory_bytes = stats.memory;
        }
        Ok(usage)
    }

    async fn processes(&self) -> Result<Answer, Refusal> {
        let request = ProcessesRequest { container: CONTAINER.to_owned() };
        let refused = AgentError::refused("list its processes");
        let answer = self.agent.containers().processes(request).await.map_err(refused).map_err(failed)?;
        let processes = answer.into_inner().processes.into_iter().map(Into::into).collect();
        Ok(Answer::Reply(Reply::Processes(processes)))
    }

    /// Runs one more process, attached to the command.
    async fn exec(&self, exec: Exec, reader: OwnedReadHalf, client: Client) -> Result<Answer, Refusal> {
        let Exec { process, user, interactive, size, detach } = exec;
        if self.status.lock().unwrap_or_else(PoisonError::into_inner).phase == Phase::Paused {
            return Err(failed(io::Error::other("the container is paused; `rvm unpause` lets it go on")));
        }
        let tty = process["terminal"].as_bool().unwrap_or_default();
        let wanted = boot::streams(interactive, tty, size);
        let (tokens, stdio) = streams::open(&self.agent, wanted).await.map_err(failed)?;
        let name = self.next_exec();
        let request = ExecRequest {
            container: CONTAINER.to_owned(),
            exec: name.clone(),
            process: serde_json::to_vec(&process).map_err(failed)?,
            streams: Some(tokens),
            user: Some(user.into()),
        };
        if let Err(refused) = self.agent.containers().exec(request).await {
            let code = start_status(refused.code());
            return Err(refusal(&AgentError::refused("start the command")(refused), code));
        }
        client.send(Kind::Started, &[]).await;
        if detach {
            // Its streams are closed: what it writes fails, as for a daemon that has nobody to tell.
            return done();
        }
        self.attend_exec(name, stdio, reader, client).await.map(Answer::Exit)
    }

    async fn attend_exec(
        &self,
        name: String,
        stdio: Stdio,
        reader: OwnedReadHalf,
        client: Client,
    ) -> Outcome {
        let Stdio { stdin, stdout, stderr } = stdio;
        let mut outputs = JoinSet::new();
        if let Some(stdout) = stdout {
            outputs.spawn(relay::output(stdout, Kind::Stdout, None, client.clone()));
        }
        if let Some(stderr) = stderr {
            outputs.spawn(relay::output(stderr, Kind::Stderr, None, client.clone()));
        }
        let (wishes, inbox) = mpsc::channel(16);
        let input = tokio::spawn(relay::input(reader, stdin, client.clone(), wishes));
        let exit = tokio::select! {
            exit = self.wait(&name) => exit,
            () = self.grant(name.clone(), inbox) => self.wait(&name).await,
        };
        input.abort();
        client.keep_the_rest();
        while outputs.join_next().await.is_some() {}
        exit
    }

    /// Does what the command attached to a process wishes, until it is gone.
    pub(super) async fn grant(&self, exec: String, mut wishes: mpsc::Receiver<Wish>) {
        while let Some(wish) = wishes.recv().await {
            let granted = match wish {
                Wish::Signal(signal) => self.signal(&exec, signal).await,
                Wish::Resize(columns, rows) => self.resize(&exec, columns, rows).await,
            };
            // The process may be gone.
            if let Err(error) = granted {
                logging::say(&logging::chain(&error));
            }
        }
    }

    async fn resize(&self, exec: &str, columns: u16, rows: u16) -> Result<(), AgentError> {
        let request = ResizeRequest {
            container: CONTAINER.to_owned(),
            exec: exec.to_owned(),
            columns: columns.into(),
            rows: rows.into(),
        };
        let refused = AgentError::refused("set the size of the terminal");
        self.agent.containers().resize(request).await.map_err(refused)?;
        Ok(())
    }

    async fn copy_out(&self, path: String, follow: bool, client: Client) -> Result<Answer, Refusal> {
        let (token, stream) = self.agent.stream().await.map_err(failed)?;
        let request = ReadArchiveRequest { container: CONTAINER.to_owned(), path, follow, stream: token };
        let relay = tokio::spawn(relay::output(stream, Kind::Stdout, None, client));
        let refused = AgentError::refused("read the files");
        if let Err(error) = self.agent.storage().read_archive(request).await.map_err(refused) {
            relay.abort();
            return Err(failed(error));
        }
        relay.await.map_err(failed)?;
        done()
    }

    async fn copy_in(&self, path: String, reader: OwnedReadHalf, client: Client) -> Result<Answer, Refusal> {
        let (token, stream) = self.agent.stream().await.map_err(failed)?;
        let request = WriteArchiveRequest { container: CONTAINER.to_owned(), path, stream: token };
        // Nobody wishes anything of an archive.
        let (wishes, _) = mpsc::channel(1);
        let input = tokio::spawn(relay::input(reader, Some(stream), client, wishes));
        let refused = AgentError::refused("write the files");
        let written = self.agent.storage().write_archive(request).await.map_err(refused).map_err(failed);
        input.abort();
        written.and(done())
    }
}

fn done() -> Result<Answer, Refusal> {
    Ok(Answer::Reply(Reply::Done))
}
