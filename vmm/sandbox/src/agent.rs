//! The host's end of the agent in a guest: its gRPC service, and the streams beside it.
//!
//! What the agent says is the guest's word: it is bounded, and it is data. A call that does not come back is ended by
//! the caller's patience, or with the VM.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use rvm_agent_proto::containers_client::ContainersClient;
use rvm_agent_proto::sandbox_client::SandboxClient;
use rvm_agent_proto::storage_client::StorageClient;
use rvm_agent_proto::{
    ConfigureRequest, HelloRequest, HelloResponse, PROTOCOL, RPC_PORT, STREAM_PORT, stream_header,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::vsock::{self, ConnectError};

/// Largest message that is taken from a guest, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// How long an agent that said it is ready may take to answer its first call. Generous: a busy host, an emulated
/// one; a guest that never answers is what it is for.
const HELLO_PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no agent to speak to, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No connection became of it.
    #[error("cannot speak to the agent in the guest")]
    Transport(#[from] tonic::transport::Error),
    /// It is not of this build.
    #[error(
        "the agent in the guest speaks protocol {agent} and rvm {PROTOCOL}; use the guest image that came with this rvm"
    )]
    Protocol {
        /// The agent's.
        agent: u32,
    },
    /// It did not answer.
    #[error("the agent in the guest did not {attempt} within {} seconds", .patience.as_secs())]
    Silent {
        /// What it should have done.
        attempt: &'static str,
        /// How long was waited.
        patience: Duration,
    },
    /// It refused a call.
    #[error("the guest cannot {attempt}: {}", .status.message())]
    Refused {
        /// What was asked, as "create the container".
        attempt: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// The host failed.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl AgentError {
    /// For `map_err`: the agent's refusal of `attempt`.
    pub fn refused(attempt: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Refused { attempt, status: Box::new(status) }
    }
}

/// A connection to an agent whose protocol is ours. Clones share it.
#[derive(Clone, Debug)]
pub struct Agent {
    channel: Channel,
    socket: PathBuf,
}

impl Agent {
    /// Connects to the agent of the guest whose VMM listens at `socket`. The guest has said that it is ready.
    pub async fn connect(socket: &Path) -> Result<(Self, HelloResponse), AgentError> {
        let stream = vsock::connect(socket, RPC_PORT).await?;
        let mut stream = Some(TokioIo::new(stream));
        // One connection for the life of the VM; when it breaks, the guest is gone. The address is never looked up.
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| io::Error::from(Errno::ECONNRESET));
            async move { stream }
        });
        let endpoint = Endpoint::from_static("http://agent.invalid");
        let channel = endpoint.connect_with_connector(connector).await?;
        let agent = Self { channel, socket: socket.to_owned() };
        let hello = agent.hello().await?;
        Ok((agent, hello))
    }

    async fn hello(&self) -> Result<HelloResponse, AgentError> {
        let mut sandbox = self.sandbox();
        let hello = sandbox.hello(HelloRequest { protocol: PROTOCOL });
        let answer = tokio::time::timeout(HELLO_PATIENCE, hello)
            .await
            .map_err(|_| AgentError::Silent { attempt: "say hello", patience: HELLO_PATIENCE })?;
        let hello = answer.map_err(AgentError::refused("say which agent it has"))?.into_inner();
        match hello.protocol {
            PROTOCOL => Ok(hello),
            agent => Err(AgentError::Protocol { agent }),
        }
    }

    /// The guest as a whole.
    pub fn sandbox(&self) -> SandboxClient<Channel> {
        SandboxClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The guest's file systems.
    pub fn storage(&self) -> StorageClient<Channel> {
        StorageClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The guest's containers.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Opens a stream, to be named by its token in a call.
    pub async fn stream(&self) -> Result<(u64, UnixStream), AgentError> {
        let token = new_token().map_err(|source| AgentError::Host { attempt: "choose a token", source })?;
        let mut stream = vsock::connect(&self.socket, STREAM_PORT).await?;
        let sent = stream.write_all(&stream_header(token)).await;
        sent.map_err(|source| AgentError::Host { attempt: "begin a stream to the guest", source })?;
        Ok((token, stream))
    }
}

/// Bytes that the guest's random number generator is given at the start.
const ENTROPY: usize = 64;

/// What every guest is told first, whatever else it is told: the time, and randomness of its own.
pub fn first_configuration() -> Result<ConfigureRequest, AgentError> {
    let mut entropy = vec![0; ENTROPY];
    crate::random(&mut entropy)
        .map_err(|source| AgentError::Host { attempt: "read /dev/urandom", source })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(ConfigureRequest {
        time_ns: i64::try_from(now.as_nanos()).ok(),
        entropy,
        ..ConfigureRequest::default()
    })
}

/// A token that is not 0, and that nobody guesses.
fn new_token() -> io::Result<u64> {
    loop {
        let mut bytes = [0; 8];
        crate::random(&mut bytes)?;
        match u64::from_le_bytes(bytes) {
            0 => {}
            token => return Ok(token),
        }
    }
}
