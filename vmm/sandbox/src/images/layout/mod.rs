//! Images in files: OCI image layouts, as directories and tar archives, and what `docker save` writes.
//!
//! A layout's `index.json` may have several images; the one wanted is told by its tag. See OCI image specification,
//! "Image Layout Specification". Docker's archives: `manifest.json`, in which each image has its names, its
//! configuration and its layers' files.

mod archive;
mod docker;
mod files;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use super::digest::Digest;
use super::manifest::{self, Descriptor, Manifest};
use super::origin::{Origin, OriginError, blob_name, read_small};
use files::Files;

/// The annotations that can have an image's name; the first is containerd's, with a whole reference in it.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One image of a layout.
pub struct Layout {
    place: String,
    files: Files,
    root: (String, Vec<u8>),
    /// Blobs that are not where a layout has them: other files, or made up.
    blobs: BTreeMap<Digest, Blob>,
    /// The names that the layout has for the image.
    pub names: Vec<String>,
}

enum Blob {
    File(String),
    Bytes(Vec<u8>),
}

impl Layout {
    /// The images of an OCI layout in a directory.
    pub fn directory(path: &Path, wanted: Option<&str>) -> Result<Vec<Self>, OriginError> {
        Self::oci(&path.display().to_string(), &Files::Directory(path.to_owned()), wanted)
    }

    /// The images of an archive, in either of the two forms. `file` can be sought in and is not compressed.
    pub fn archive(place: &str, file: File, wanted: Option<&str>) -> Result<Vec<Self>, OriginError> {
        let files = archive::open(place, file)?;
        // Docker's newer archives are both. Its own list has names for the images.
        match files.has("manifest.json") {
            true => docker::images(place, &files, wanted),
            false => Self::oci(place, &files, wanted),
        }
    }

    fn oci(place: &str, files: &Files, wanted: Option<&str>) -> Result<Vec<Self>, OriginError> {
        let layout = |why: &str| OriginError::Layout { place: place.to_owned(), why: why.to_owned() };
        if !files.has("index.json") {
            return Err(layout("is no OCI image layout, and no archive of one: it has no index.json"));
        }
        let index = files.read_small(place, "index.json")?;
        let Ok(Manifest::Index(entries)) = Manifest::parse(&index) else {
            return Err(layout("is no OCI image layout: its index.json is none"));
        };
        let mut images = Vec::new();
        for entry in &entries {
            let names: Vec<&String> = NAMES.iter().filter_map(|name| entry.annotations.get(*name)).collect();
            if wanted.is_none_or(|wanted| names.iter().any(|name| is_meant(wanted, name))) {
                images.push(Self {
                    place: place.to_owned(),
                    files: files.clone(),
                    root: (entry.media_type.clone(), read_checked(place, files, entry)?),
                    blobs: BTreeMap::new(),
                    names: names.into_iter().cloned().collect(),
                });
            }
        }
        match (images.is_empty(), wanted) {
            (false, _) => Ok(images),
            (true, Some(wanted)) => Err(OriginError::Missing {
                place: place.to_owned(),
                what: format!("image with tag '{wanted}'"),
            }),
            (true, None) => Err(layout("has no images in it")),
        }
    }
}

impl Origin for Layout {
    fn root(&self) -> Result<(String, Vec<u8>), OriginError> {
        Ok(self.root.clone())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        read_checked(&self.place, &self.files, descriptor)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, OriginError> {
        match self.blobs.get(&descriptor.digest) {
            Some(Blob::Bytes(bytes)) => Ok(Box::new(Cursor::new(bytes))),
            Some(Blob::File(name)) => self.files.open(&self.place, name),
            None => self.files.open(&self.place, &blob_path(&descriptor.digest)),
        }
    }
}

/// Whether somebody who writes `wanted` means the image called `name`: by all of it, or by its tag.
fn is_meant(wanted: &str, name: &str) -> bool {
    name == wanted || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small blob with the digest that it must have.
fn read_checked(place: &str, files: &Files, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
    let bytes = files.read_small(place, &blob_path(&descriptor.digest))?;
    match Digest::of(&bytes) == descriptor.digest {
        true => Ok(bytes),
        false => Err(OriginError::Layout {
            place: place.to_owned(),
            why: format!("is damaged: {} has other contents", blob_name(&descriptor.digest)),
        }),
    }
}
