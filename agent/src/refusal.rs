//! Why a call of the host is refused, and the gRPC status that says so, by the rules at the head of `agent.proto`.
//!
//! What only the service of one kind of thing can say (of containers, of streams) becomes a status there.

use std::error::Error;
use std::io;

use nix::errno::Errno;
use tonic::{Code, Status};

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request cannot be meant.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// The field, and what was in it.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What the request names is not there.
    #[error("there is no {0}")]
    Absent(String),
    /// What the request would make is there.
    #[error("{0} is taken")]
    Taken(String),
    /// The kernel refused a step.
    #[error("cannot {step}")]
    Kernel {
        /// What was attempted, on what.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

impl Refusal {
    /// A field with what was in it, and what is wrong with that.
    pub fn invalid(what: impl Into<String>, reason: &'static str) -> Self {
        Self::Invalid { what: what.into(), reason }
    }

    /// What was attempted, for `map_err`.
    pub fn kernel<E: Into<io::Error>>(step: impl FnOnce() -> String) -> impl FnOnce(E) -> Self {
        move |source| Self::Kernel { step: step(), source: source.into() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid { .. } => Code::InvalidArgument,
            Refusal::Absent(_) => Code::NotFound,
            Refusal::Taken(_) => Code::AlreadyExists,
            Refusal::Kernel { source, .. } => code_of(source),
        };
        status(code, &refusal)
    }
}

/// A status with the error's words and, behind them, those of all its sources.
pub fn status(code: Code, error: &dyn Error) -> Status {
    Status::new(code, in_one_line(error))
}

/// An error and what is behind it, in one line.
pub fn in_one_line(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", in_one_line(source)),
        None => error.to_string(),
    }
}

/// The code for what the kernel answered.
pub fn code_of(source: &io::Error) -> Code {
    let Some(number) = source.raw_os_error() else { return Code::Internal };
    match Errno::from_raw(number) {
        Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::ENXIO => Code::NotFound,
        Errno::EEXIST => Code::AlreadyExists,
        Errno::ENOMEM | Errno::ENOSPC | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::EDQUOT => {
            Code::ResourceExhausted
        }
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;
    use std::io;
    use tonic::{Code, Status};

    #[test]
    fn a_status_says_what_was_attempted_and_why_it_failed() {
        let refuse = Refusal::kernel::<io::Error>(|| "mount /dev/vda on /run/rvm/a".to_owned());
        let status = Status::from(refuse(io::Error::from_raw_os_error(libc::EROFS)));
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(
            status.message(),
            "cannot mount /dev/vda on /run/rvm/a: Read-only file system (os error 30)"
        );
    }

    #[test]
    fn a_limit_of_the_guest_is_told_apart_from_a_fault() {
        let refuse = Refusal::kernel::<io::Error>(|| "fork".to_owned());
        assert_eq!(
            Status::from(refuse(io::Error::from_raw_os_error(libc::EAGAIN))).code(),
            Code::ResourceExhausted
        );
    }
}
