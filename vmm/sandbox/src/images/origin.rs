//! Where the blobs of an image come from: a registry, or files.

use std::io::{self, Read};

use super::digest::Digest;
use super::manifest::Descriptor;
use super::registry::RegistryError;

/// Something that has blobs. What it gives is not checked yet.
pub trait Origin: Sync {
    /// The blob that a name leads to: its kind, and all of it; at most [`super::manifest::MAX`] bytes.
    fn root(&self) -> Result<(String, Vec<u8>), OriginError>;

    /// A manifest that the root names.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError>;

    /// A blob, to be read from its start.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, OriginError>;
}

/// Why a blob cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is not in the layout.
    #[error("'{place}' has no {what}")]
    Missing {
        /// The layout.
        place: String,
        /// What is missing.
        what: String,
    },
    /// A layout that is none, or has several images.
    #[error("'{place}' {why}")]
    Layout {
        /// The layout.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {what} of '{place}'")]
    Io {
        /// The layout.
        place: String,
        /// The file.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Reads all of a small blob.
pub(super) fn read_small(reader: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match reader.take(max + 1).read_to_end(&mut bytes)? as u64 {
        read if read > max => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {max} bytes; nothing of its kind does"),
        )),
        _ => Ok(bytes),
    }
}

/// Names a blob in messages.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blob {digest}")
}
