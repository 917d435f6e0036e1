//! Who asks: answers to a registry's challenge (RFC 7235; Docker's "Token Authentication Specification").
//!
//! A token is fetched from a server that the registry names, with a name and password if there are any; or name and
//! password go to the registry itself. They go nowhere unencrypted, unless the registry is allowed to be.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;
use ureq::http::HeaderMap;

use super::RegistryError;
use super::credentials::{self, Credentials};
use crate::images::origin::read_small;

/// Largest answer of a token server.
const TOKEN_MAX: u64 = 1 << 20;

/// What this machine may do at a registry.
pub struct Authority {
    registry: String,
    repository: String,
    /// Whether words may go unencrypted.
    open: bool,
    /// Where names and passwords are looked up.
    passwords: Vec<PathBuf>,
    /// The `Authorization` header, when it is known.
    header: Mutex<Option<String>>,
}

/// A challenge of a registry.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authority {
    /// Nothing is known yet.
    pub fn new(registry: &str, repository: &str, open: bool, passwords: &[PathBuf]) -> Self {
        let passwords = passwords.to_owned();
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            open,
            passwords,
            header: Mutex::new(None),
        }
    }

    /// What a request is to say about who asks.
    pub fn header(&self) -> Option<String> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers the challenge in an answer's headers.
    pub fn answer(&self, agent: &Agent, headers: &HeaderMap) -> Result<(), RegistryError> {
        let challenges = headers.get_all("WWW-Authenticate").iter().filter_map(|value| value.to_str().ok());
        let challenge = challenges.filter_map(parse).next();
        let challenge =
            challenge.ok_or_else(|| self.wrong("it asks who we are in a way that rvm does not know"))?;
        let credentials = credentials::find(&self.passwords, &self.registry)?;
        let header = match (challenge, credentials) {
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                Some(basic(&user, &password))
            }
            (Challenge::Basic, _) => None,
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let token = self.token(agent, &realm, service.as_deref(), &scope, credentials)?;
                token.map(|token| format!("Bearer {token}"))
            }
        };
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }

    /// Fetches a token; none if the server does not give us one.
    fn token(
        &self,
        agent: &Agent,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<Credentials>,
    ) -> Result<Option<String>, RegistryError> {
        if !(realm.starts_with("https://") || self.open && realm.starts_with("http://")) {
            return Err(self.wrong("it sends us for a token to a place without encryption"));
        }
        let answer = match credentials {
            Some(Credentials::Token(refresh)) => agent.post(realm).send_form([
                ("grant_type", "refresh_token"),
                ("client_id", "rvm"),
                ("service", service.unwrap_or_default()),
                ("scope", scope),
                ("refresh_token", &refresh),
            ]),
            credentials => {
                let mut request = agent.get(realm).query("scope", scope);
                if let Some(service) = service {
                    request = request.query("service", service);
                }
                if let Some(Credentials::Password { user, password }) = credentials {
                    request = request.header("Authorization", basic(&user, &password));
                }
                request.call()
            }
        };
        let answer = answer.map_err(|error| RegistryError::Transport {
            attempt: "get a token".into(),
            registry: self.registry.clone(),
            source: Box::new(error),
        })?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let body = read_small(answer.into_body().into_reader(), TOKEN_MAX);
        let body = body.map_err(|error| self.wrong(&format!("its token cannot be read: {error}")))?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| self.wrong("its token is none"))?;
        Ok(token.token.or(token.access_token))
    }

    fn wrong(&self, why: &str) -> RegistryError {
        RegistryError::Answer { registry: self.registry.clone(), why: why.to_owned() }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `Bearer realm="...",service="...",scope="..."` or `Basic ...`.
fn parse(value: &str) -> Option<Challenge> {
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            let realm = "https://auth/token".to_owned();
            Some(Challenge::Bearer {
                realm,
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (value, challenge) in [
            (
                r#"Bearer realm="https://auth/token",service="r",scope="repository:a/b:pull,push""#,
                bearer(Some("r"), Some("repository:a/b:pull,push")),
            ),
            (r#"bearer realm="https://auth/token""#, bearer(None, None)),
            ("Bearer service=r, realm=https://auth/token", bearer(Some("r"), None)),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("Bearer service=r", None),
            (r#"Bearer realm="https://auth"#, None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(parse(value), challenge, "{value}");
        }
    }
}
