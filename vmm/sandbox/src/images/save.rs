//! Images to an archive: an OCI image layout in a tar file, with the blobs as they came.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::json;

use super::image::ImageError;
use super::list::find;
use super::manifest::Manifest;
use super::reference::Reference;
use super::store::{Store, StoreError, Stored};
use super::tar::TarWriter;

/// Why images cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// One of them is not there.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever is to have the archive does not take it.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Writes the named images to `archive`. The same images give the same bytes.
pub fn save(store: &Store, names: &[String], archive: impl Write) -> Result<(), SaveError> {
    // Nothing is removed meanwhile.
    let _session = store.session()?;
    let index = store.index()?;
    let mut entries = Vec::new();
    let mut blobs = BTreeSet::new();
    for name in names {
        let stored = find(&index, name)?;
        let manifest = Manifest::parse(&store.read_blob(&stored.digest)?).map_err(ImageError::from)?;
        let Manifest::Image { config, layers } = manifest else { return Err(ImageError::Depth.into()) };
        blobs.extend(layers.into_iter().chain([config]).map(|blob| blob.digest));
        blobs.insert(stored.digest.clone());
        entries.push(entry(stored));
    }
    let mut tar = TarWriter::new(archive);
    let mut small = |name: &str, contents: &[u8]| {
        tar.file(name, contents.len() as u64, &mut &contents[..]).map_err(SaveError::Write)
    };
    small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    small("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes())?;
    for blob in blobs {
        let path = store.blob_path(&blob);
        let error = StoreError::io("read", &path);
        let file = File::open(&path).map_err(&error)?;
        let size = file.metadata().map_err(&error)?.len();
        tar.file(&format!("blobs/sha256/{}", blob.hex()), size, &mut file.take(size))
            .map_err(SaveError::Write)?;
    }
    tar.finish().and_then(|mut archive| archive.flush()).map_err(SaveError::Write)
}

/// The image in the archive's index: with its name as containerd and Docker want it, and its tag as others do.
fn entry(stored: &Stored) -> serde_json::Value {
    let mut annotations = BTreeMap::new();
    if let Some(reference) = stored.name().and_then(|name| name.parse::<Reference>().ok()) {
        annotations.insert("io.containerd.image.name", reference.to_string());
        if let Some(tag) = reference.tag() {
            annotations.insert("org.opencontainers.image.ref.name", tag.to_owned());
        }
    }
    json!({
        "mediaType": stored.media_type,
        "digest": stored.digest,
        "size": stored.size,
        "annotations": annotations,
    })
}
