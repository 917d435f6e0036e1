//! A layer of an image: a tar archive of what it adds and removes, made an erofs image.
//!
//! How a layer removes things: OCI image specification, "Image Layer Filesystem Changeset", section "Whiteouts"; how
//! overlayfs does: Linux, `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories".

mod apply;
mod compression;
mod names;

pub use apply::{ApplyError, Limits};
pub use compression::decompress;

use std::io::{self, BufReader, Read, Seek, Write};

use super::digest::{Digest, Hashing};
use super::erofs::{self, ContentsWriter};
use super::tar::{TarError, TarReader};

/// Why a layer cannot be made an erofs image.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its archive is broken, or asks for what cannot be.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Its archive is not the one that the image names.
    #[error("its contents have digest {found}, the image's configuration says {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What they have.
        found: Digest,
    },
    /// The host failed, or the compressed data are broken.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads a layer's archive from `blob` and writes the erofs image to `image`, with `spool` for what has to wait; both
/// are empty files. Gives the image's file, complete when the archive's digest is `diff_id`.
pub fn to_erofs<R: Read, W: Write + Seek, S: Read + Write + Seek>(
    blob: R,
    diff_id: Option<&Digest>,
    limits: &Limits,
    image: W,
    spool: S,
) -> Result<(W, Digest), LayerError> {
    let plain = decompress(BufReader::new(blob)).map_err(LayerError::Io)?;
    let mut archive = TarReader::new(Hashing::new(plain));
    let mut contents = ContentsWriter::new(image, spool).map_err(LayerError::Io)?;
    let tree = apply::apply(&mut archive, &mut contents, limits)?;
    let mut rest = archive.into_inner();
    // Behind the archive's end there is padding. It is part of the digest, but has no say.
    let padding = io::copy(&mut (&mut rest).take(limits.bytes), &mut io::sink()).map_err(LayerError::Io)?;
    if padding == limits.bytes {
        return Err(ApplyError::Bytes(limits.bytes).into());
    }
    let found = rest.digest();
    match diff_id {
        Some(expected) if *expected != found => Err(LayerError::DiffId { expected: expected.clone(), found }),
        _ => Ok((erofs::write(&tree, contents).map_err(LayerError::Io)?, found)),
    }
}

impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        Self::Apply(error.into())
    }
}

#[cfg(test)]
mod tests;
