//! What a registry does not give, and what it says about it.

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::images::origin::read_small;

/// Longest explanation of a registry that is passed on, in characters.
const EXPLANATION_MAX: usize = 200;

/// Why a registry does not give what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or breaks off.
    #[error("cannot {attempt} from registry {registry}")]
    Transport {
        /// What was attempted, as "get blob sha256:...".
        attempt: String,
        /// The registry's host.
        registry: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It does not have it.
    #[error("registry {registry} has no image '{image}'{why}; check its name and tag")]
    Unknown {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        image: String,
        /// What the registry says, in parentheses.
        why: String,
    },
    /// It wants to know who asks.
    #[error(
        "registry {registry} does not have image '{image}', or not for everybody{why}; docker login {registry} saves a \
         name and a password that rvm uses, too"
    )]
    Denied {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        image: String,
        /// What the registry says, in parentheses.
        why: String,
    },
    /// It answers something else.
    #[error("cannot {attempt} from registry {registry}: it answers {status}{why}")]
    Status {
        /// What was attempted.
        attempt: String,
        /// The registry's host.
        registry: String,
        /// The status.
        status: StatusCode,
        /// What the registry says, in parentheses.
        why: String,
    },
    /// Its answer makes no sense.
    #[error("registry {registry} answers what cannot be understood: {why}")]
    Answer {
        /// The registry's host.
        registry: String,
        /// What is wrong.
        why: String,
    },
    /// A name and password cannot be had.
    #[error("cannot get the password for registry {registry}: {why}")]
    Credentials {
        /// The registry's host.
        registry: String,
        /// What went wrong.
        why: String,
    },
}

/// The error for an answer that is none.
pub(super) fn refusal(
    attempt: &str,
    registry: &str,
    image: String,
    response: Response<Body>,
) -> RegistryError {
    let status = response.status();
    let (registry, why) = (registry.to_owned(), explanation(response));
    match status {
        StatusCode::NOT_FOUND => RegistryError::Unknown { registry, image, why },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { registry, image, why },
        _ => RegistryError::Status { attempt: attempt.to_owned(), registry, status, why },
    }
}

/// What the registry says (OCI distribution specification, "Error Codes"), in parentheses.
fn explanation(response: Response<Body>) -> String {
    #[derive(Default, Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        message: String,
    }
    // Only a hint: where it cannot be read, there is none.
    let body = read_small(response.into_body().into_reader(), 1 << 16).unwrap_or_default();
    let errors = serde_json::from_slice::<Errors>(&body).unwrap_or_default().errors;
    let message = errors.into_iter().map(|error| error.message).find(|message| !message.is_empty());
    message.map_or(String::new(), |message| {
        format!(" ({})", message.chars().take(EXPLANATION_MAX).collect::<String>())
    })
}
