//! The streams of a process in the guest, on the host's side: opened before the call that starts the process, and
//! named in it.

use rvm_agent_proto::Streams;
use tokio::net::UnixStream;

use crate::agent::{Agent, AgentError};

/// Which streams a process has; one that it has not is /dev/null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output, or the terminal's output.
    pub stdout: bool,
    /// Standard error; none with a terminal.
    pub stderr: bool,
    /// Columns and rows of the terminal, where it has one.
    pub size: Option<(u16, u16)>,
}

/// The host's ends of a process's streams.
#[derive(Debug, Default)]
pub struct Stdio {
    /// To its standard input.
    pub stdin: Option<UnixStream>,
    /// From its standard output, or its terminal.
    pub stdout: Option<UnixStream>,
    /// From its standard error.
    pub stderr: Option<UnixStream>,
}

/// Opens the streams of a process; gives their tokens, and our ends.
pub async fn open(agent: &Agent, wanted: Wanted) -> Result<(Streams, Stdio), AgentError> {
    let (columns, rows) = wanted.size.unwrap_or_default();
    let mut stdio = Stdio::default();
    let tokens = Streams {
        stdin: open_if(agent, wanted.stdin, &mut stdio.stdin).await?,
        stdout: open_if(agent, wanted.stdout, &mut stdio.stdout).await?,
        stderr: open_if(agent, wanted.stderr, &mut stdio.stderr).await?,
        columns: columns.into(),
        rows: rows.into(),
    };
    Ok((tokens, stdio))
}

/// The token of a stream, 0 for none.
async fn open_if(agent: &Agent, wanted: bool, ours: &mut Option<UnixStream>) -> Result<u64, AgentError> {
    if !wanted {
        return Ok(0);
    }
    let (token, stream) = agent.stream().await?;
    *ours = Some(stream);
    Ok(token)
}
