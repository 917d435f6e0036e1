//! A blob as it comes, going on where it broke off.

use std::io::{self, Read};

use ureq::http::StatusCode;

use super::{RegistryError, Remote};
use crate::images::manifest::Descriptor;

/// Reads a blob of a registry.
pub struct Blob<'a> {
    remote: &'a Remote<'a>,
    path: String,
    attempt: String,
    size: u64,
    /// Bytes that have been read.
    at: u64,
    body: Option<Box<dyn Read + Send>>,
    /// Tries since the last byte came.
    tries: u32,
}

impl<'a> Blob<'a> {
    /// From its first byte on; nothing is asked for before it is read.
    pub fn new(remote: &'a Remote<'a>, descriptor: &Descriptor) -> Self {
        let Descriptor { digest, size, .. } = descriptor;
        let (path, attempt) = (format!("blobs/{digest}"), format!("get blob {digest}"));
        Self { remote, path, attempt, size: *size, at: 0, body: None, tries: 0 }
    }

    /// Asks for what has not been read.
    fn ask(&self) -> Result<Box<dyn Read + Send>, RegistryError> {
        let response = self.remote.get(&self.attempt, &self.path, self.at)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let range = response.headers().get("Content-Range").and_then(|range| range.to_str().ok());
        let begins: Option<u64> =
            range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        if let Some(begins) = begins.filter(|begins| partial && *begins != self.at) {
            let why =
                format!("it gives a blob from byte {begins} on, and was asked for it from {} on", self.at);
            return Err(RegistryError::Answer { registry: self.remote.registry.clone(), why });
        }
        let mut body = response.into_body().into_reader();
        // Registries need not know about ranges.
        let skip = if partial { 0 } else { self.at };
        match io::copy(&mut (&mut body).take(skip), &mut io::sink()) {
            Ok(_) => Ok(Box::new(body)),
            Err(error) => Err(self.remote.broken(&self.attempt, error.into())),
        }
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => {
                    let body = self.ask().map_err(io::Error::other)?;
                    self.body.insert(body)
                }
            };
            let broke = match body.read(buffer) {
                Ok(0) if self.at < self.size && !buffer.is_empty() => {
                    format!("it ended after {} of {} bytes", self.at, self.size)
                }
                Ok(read) => {
                    self.at += read as u64;
                    self.tries = if read > 0 { 0 } else { self.tries };
                    return Ok(read);
                }
                Err(error) => error.to_string(),
            };
            self.body = None;
            self.tries += 1;
            if self.tries >= self.remote.options.tries {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, broke));
            }
            self.remote.wait_broken(self.tries, &broke);
        }
    }
}
