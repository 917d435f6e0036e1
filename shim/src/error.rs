//! Why the shim refuses, as containerd hears it: a status of ttrpc with the whole reason, which ends up in `ctr`'s and
//! `docker run`'s output and in the events of a pod.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use containerd_shim_protos::ttrpc::{self, Code, get_status};
use rvm_config::guest_files::GuestFilesError;
use rvm_sandbox::agent::AgentError;
use rvm_sandbox::machine::MachineError;
use rvm_sandbox::network::NetworkError;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// There is no such thing.
    #[error("there is no {what} '{id}' in this pod")]
    NotFound {
        /// Container or process.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// The name is taken.
    #[error("there is a {what} '{id}' already")]
    Exists {
        /// Container or process.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// It is not in the state for that.
    #[error("cannot {attempt} '{id}': it is {state}")]
    State {
        /// What was attempted.
        attempt: &'static str,
        /// On which process.
        id: String,
        /// Its state.
        state: &'static str,
    },
    /// A process that ended takes no signal. containerd knows that by the status.
    #[error("the process '{0}' has ended already")]
    Ended(String),
    /// What is asked for cannot be meant.
    #[error("{what} cannot be read: {reason}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's configuration is not as it should be.
    #[error("cannot use the configuration '{}': line {line}: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// rvm does not do this.
    #[error("rvm does not support {what}: {reason}")]
    Unsupported {
        /// The call, the field, the path.
        what: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// An image does not become a root file system.
    #[error("cannot {attempt} the image '{}': {reason}{console}", .path.display())]
    Image {
        /// What was attempted.
        attempt: &'static str,
        /// Where it is on the host.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The last lines of the guest's console, in lines of their own.
        console: String,
    },
    /// rvm's own files.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// The virtual machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The network that others made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The host, on a path.
    #[error("cannot {attempt} '{}'", .path.display())]
    Path {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ShimError {
    /// For `map_err`: the host's refusal of `attempt` on `path`.
    pub fn path<E: Into<io::Error>>(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Path { attempt, path, source: source.into() }
    }

    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { attempt, source: source.into() }
    }

    /// A container that is not there.
    pub fn no_container(id: &str) -> Self {
        Self::NotFound { what: "container", id: id.to_owned() }
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::Ended(_) => Code::NOT_FOUND,
            Self::Exists { .. } => Code::ALREADY_EXISTS,
            Self::State { .. } => Code::FAILED_PRECONDITION,
            Self::Invalid { .. } => Code::INVALID_ARGUMENT,
            Self::Unsupported { .. } => Code::UNIMPLEMENTED,
            // The guest chooses among the codes that there are for it.
            Self::Agent(AgentError::Refused { status, .. }) => match status.code() {
                tonic::Code::InvalidArgument => Code::INVALID_ARGUMENT,
                tonic::Code::NotFound => Code::NOT_FOUND,
                tonic::Code::AlreadyExists => Code::ALREADY_EXISTS,
                tonic::Code::PermissionDenied => Code::PERMISSION_DENIED,
                tonic::Code::FailedPrecondition => Code::FAILED_PRECONDITION,
                tonic::Code::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
                tonic::Code::Unimplemented => Code::UNIMPLEMENTED,
                _ => Code::UNKNOWN,
            },
            _ => Code::UNKNOWN,
        }
    }
}

impl From<ShimError> for ttrpc::Error {
    fn from(error: ShimError) -> Self {
        Self::RpcStatus(get_status(error.code(), chain(&error)))
    }
}

/// An error with its causes, in one line, but for the console's lines that it may have.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
