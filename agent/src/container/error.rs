//! Why a container cannot be what was asked, or do it.

use std::io;

use super::State;

/// What failed. The source, where there is one, is not in the text.
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
    // In words that Docker knows: its client ends with 127 then.
    #[error("cannot run {program}: {}", missing(program))]
    NoProgram {
        /// As the specification has it.
        program: String,
    },
    /// The program is there and cannot be executed.
    // Likewise, 126.
    #[error("cannot run {program}: {}", refused(reason))]
    NotExecutable {
        /// As the specification has it.
        program: String,
        /// Why not.
        reason: io::Error,
    },
    /// The guest's kernel refused a step.
    #[error("cannot {step}")]
    Kernel {
        /// What was attempted, on what.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

/// What is missing, by the way a program is found.
fn missing(program: &str) -> &'static str {
    match program.contains('/') {
        true => "no such file or directory in the container",
        false => "executable file not found in the container's $PATH",
    }
}

/// Why a program cannot be executed.
fn refused(reason: &io::Error) -> String {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => reason.to_string(),
    }
}

impl Error {
    /// `field` is not supported.
    pub(super) fn unsupported(field: impl Into<String>, reason: &'static str) -> Self {
        Self::Unsupported { field: field.into(), reason }
    }

    /// `field` is not valid.
    pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// For `map_err`: the kernel refused `step`.
    pub(super) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        |source| Self::Kernel { step: step.into(), source: source.into() }
    }
}
