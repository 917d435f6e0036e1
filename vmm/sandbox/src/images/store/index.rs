//! `index.json`: which images are in the store, and under which names (OCI image specification, "Image Layout
//! Specification", section "index.json File").

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};

use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};

use super::{Session, Store, StoreError};
use crate::images::digest::Digest;

/// The annotation that has an image's name.
pub const NAME: &str = "org.opencontainers.image.ref.name";
const FILE: &str = "index.json";

/// An image in the store: its manifest, and its name if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The manifest's kind.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's size in bytes.
    pub size: u64,
    /// The name is in these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The images in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    /// In the order in which they came.
    #[serde(rename = "manifests")]
    pub images: Vec<Stored>,
}

impl Stored {
    /// An image with a name, or without.
    pub fn new(media_type: &str, digest: Digest, size: u64, name: Option<&str>) -> Self {
        let annotations = name.map(|name| (NAME.to_owned(), name.to_owned())).into_iter().collect();
        Self { media_type: media_type.to_owned(), digest, size, annotations }
    }

    /// Its name: a full reference, or the place on this machine that it came from.
    pub fn name(&self) -> Option<&str> {
        self.annotations.get(NAME).map(String::as_str)
    }
}

impl Index {
    /// The image with this name.
    pub fn named(&self, name: &str) -> Option<&Stored> {
        self.images.iter().find(|image| image.name() == Some(name))
    }
}

impl Store {
    /// The images in the store.
    pub fn index(&self) -> Result<Index, StoreError> {
        let path = self.root().join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StoreError::Damaged { path, why: error.to_string() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Index { schema_version: 2, images: Vec::new() })
            }
            Err(source) => Err(StoreError::io("read", &path)(source)),
        }
    }

    /// Changes the list of images. One process at a time.
    pub(super) fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, StoreError> {
        let _one_at_a_time = self.lock_file("index.lock", FlockArg::LockExclusive)?;
        let mut index = self.index()?;
        let result = change(&mut index);
        let path = self.root().join(FILE);
        let temporary = super::Temporary::new(&self.root().join("tmp"))?;
        let bytes =
            serde_json::to_vec(&index).map_err(|error| StoreError::io("write", &path)(error.into()))?;
        temporary.file().write_all(&bytes).map_err(StoreError::io("write", &path))?;
        temporary.keep_as(&path)?;
        Ok(result)
    }
}

impl Session<'_> {
    /// Adds an image. Another with its name loses it; the same image without a name, too.
    pub fn add_image(&self, image: Stored) -> Result<(), StoreError> {
        self.store.change_index(|index| {
            let replaced = |old: &Stored| match old.name() {
                None => old.digest == image.digest,
                name => name == image.name(),
            };
            index.images.retain(|old| !replaced(old));
            index.images.push(image);
        })
    }
}
