//! What is told while an image is fetched.

use super::digest::Digest;

/// Somebody who wants to know. Called from several threads.
pub trait Progress: Send + Sync {
    /// How a layer gets on.
    fn layer(&self, layer: &Digest, step: Step);
    /// Something worth a line: a retry, a wait.
    fn note(&self, line: &str);
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is in the store already.
    Exists,
    /// This many bytes of so many have come.
    Fetched(u64, u64),
    /// All have come; it is made an erofs image.
    Converting,
    /// It can be used.
    Done,
}

/// Nobody wants to know.
pub struct Quiet;

impl Progress for Quiet {
    fn layer(&self, _: &Digest, _: Step) {}

    fn note(&self, _: &str) {}
}
