//! A registry: OCI distribution specification, "Pulling manifests" and "Pulling blobs".
//!
//! HTTP is ureq's: blocking, one connection a thread. What is told to be tried again (a connection that broke, a
//! server that is busy) is tried a few times, with pauses that grow; a blob goes on from where it broke off. Nothing
//! that a registry sends is believed here; digests are checked by who asks.

mod auth;
mod blob;
mod credentials;
mod error;
mod transport;

pub use error::RegistryError;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::digest::Digest;
use super::manifest::{self, Descriptor};
use super::origin::{Origin, OriginError, read_small};
use super::progress::Progress;
use super::reference::{Reference, Version};
use auth::Authority;
use blob::Blob;

/// What can be made of: manifests and indexes of OCI and of Docker.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Whether a registry must prove who it is. A registry on this machine need not.
    pub tls_verify: bool,
    /// Registries that need not, as `host` or `host:port`.
    pub insecure: Vec<String>,
    /// Docker's configuration files, where names and passwords are looked up.
    pub passwords: Vec<PathBuf>,
    /// How often something is tried without getting on.
    pub tries: u32,
    /// How long to wait after the first try; twice as long after each.
    pub pause: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let passwords = credentials::files();
        Self {
            tls_verify: true,
            insecure: Vec::new(),
            passwords,
            tries: 6,
            pause: Duration::from_millis(500),
        }
    }
}

/// An image in a registry.
pub struct Remote<'a> {
    agent: Agent,
    /// As it is written.
    registry: String,
    /// `https://HOST[:PORT]`
    base: String,
    repository: String,
    version: Version,
    authority: Authority,
    options: &'a RegistryOptions,
    progress: &'a dyn Progress,
}

impl<'a> Remote<'a> {
    /// Finds the registry of an image, and how to speak to it.
    pub fn new(reference: &Reference, options: &'a RegistryOptions, progress: &'a dyn Progress) -> Self {
        let Reference { registry, repository, version } = reference;
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let open = transport::is_open(registry, options);
        let agent = transport::agent(registry, open);
        Self {
            base: transport::base(&agent, host, open),
            agent,
            registry: registry.clone(),
            repository: repository.clone(),
            version: version.clone(),
            authority: Authority::new(registry, repository, open, &options.passwords),
            options,
            progress,
        }
    }

    /// Asks for `/v2/REPOSITORY/PATH`, from byte `from` on. Answers the question who asks, and tries again.
    fn get(&self, attempt: &str, path: &str, from: u64) -> Result<Response<Body>, RegistryError> {
        let url = format!("{}/v2/{}/{path}", self.base, self.repository);
        let mut tries = 0;
        let mut asked = false;
        loop {
            let mut request = self.agent.get(&url).header("Accept", ACCEPT);
            if let Some(authorization) = self.authority.header() {
                request = request.header("Authorization", authorization);
            }
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            tries += 1;
            let again = tries < self.options.tries;
            match request.call() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !asked => {
                    asked = true;
                    self.authority.answer(&self.agent, response.headers())?;
                }
                Ok(response) if again && is_passing(response.status()) => {
                    self.wait(tries, &format!("registry {} is busy ({})", self.registry, response.status()));
                }
                Ok(response) => return Err(error::refusal(attempt, &self.registry, self.image(), response)),
                // A registry that is not there at the first word is not about to be.
                Err(error) if again && (from > 0 || !is_unreachable(&error)) => {
                    self.wait_broken(tries, &error)
                }
                Err(error) => return Err(self.broken(attempt, error)),
            }
        }
    }

    /// Waits before the next try.
    fn wait(&self, tries: u32, why: &str) {
        let pause = self.options.pause.saturating_mul(1 << (tries - 1).min(5));
        self.progress.note(&format!("{why}; trying again in {:.1} s", pause.as_secs_f32()));
        std::thread::sleep(pause);
    }

    fn wait_broken(&self, tries: u32, why: &dyn std::fmt::Display) {
        self.wait(tries, &format!("the connection to registry {} broke ({why})", self.registry));
    }

    fn broken(&self, attempt: &str, error: ureq::Error) -> RegistryError {
        RegistryError::Transport {
            attempt: attempt.to_owned(),
            registry: self.registry.clone(),
            source: Box::new(error),
        }
    }

    /// What was asked for, in messages.
    fn image(&self) -> String {
        match &self.version {
            Version::Tag(tag) => format!("{}:{tag}", self.repository),
            Version::Digest(digest) => format!("{}@{digest}", self.repository),
        }
    }

    fn get_manifest(&self, version: &str) -> Result<(String, Vec<u8>), OriginError> {
        let attempt = format!("get the manifest of {}", self.image());
        let mut tries = 0;
        loop {
            let response = self.get(&attempt, &format!("manifests/{version}"), 0)?;
            let kind = response.headers().get("Content-Type").and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
            tries += 1;
            match read_small(response.into_body().into_reader(), manifest::MAX) {
                Ok(bytes) => return Ok((kind, bytes)),
                Err(error) if tries < self.options.tries && error.kind() != io::ErrorKind::InvalidData => {
                    self.wait_broken(tries, &error);
                }
                Err(error) => return Err(self.broken(&attempt, error.into()).into()),
            }
        }
    }

    /// A manifest that must have this digest.
    fn get_checked(&self, digest: &Digest) -> Result<(String, Vec<u8>), OriginError> {
        let (kind, bytes) = self.get_manifest(&digest.to_string())?;
        let found = Digest::of(&bytes);
        let why = || format!("a manifest has digest {found} and must have {digest}");
        match found == *digest {
            true => Ok((kind, bytes)),
            false => Err(RegistryError::Answer { registry: self.registry.clone(), why: why() }.into()),
        }
    }
}

impl Origin for Remote<'_> {
    fn root(&self) -> Result<(String, Vec<u8>), OriginError> {
        match &self.version {
            Version::Tag(tag) => self.get_manifest(tag),
            Version::Digest(digest) => self.get_checked(digest),
        }
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        self.get_checked(&descriptor.digest).map(|(_, bytes)| bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, OriginError> {
        Ok(Box::new(Blob::new(self, descriptor)))
    }
}

/// Whether a server that answers so may answer otherwise soon.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn is_unreachable(error: &ureq::Error) -> bool {
    use ureq::Error;
    match error {
        Error::HostNotFound | Error::ConnectionFailed | Error::Tls(_) | Error::Rustls(_) => true,
        Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
