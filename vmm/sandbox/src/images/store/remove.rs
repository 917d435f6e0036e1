//! Removing images, and what no image needs.
//!
//! Done alone: with the store's lock held exclusively nobody makes files, so what no image names is not about to be
//! named. A layer that a VM uses stays, image or not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

use super::{Store, StoreError, Stored, lock};
use crate::images::digest::Digest;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Images that are no longer in the store.
    pub images: Vec<Stored>,
    /// Files that are no longer there.
    pub files: Vec<PathBuf>,
    /// Bytes that this freed.
    pub bytes: u64,
}

/// Of a manifest, what it needs.
#[derive(Deserialize)]
struct Needs {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

/// Of a configuration, what it needs.
#[derive(Deserialize)]
struct RootFs {
    rootfs: DiffIds,
}

#[derive(Deserialize)]
struct DiffIds {
    diff_ids: Vec<Digest>,
}

impl Store {
    /// Removes the images for which `unwanted` says so, and all files that no image needs. `unwanted` is told, beside
    /// the image, whether a VM uses one of its layers. Waits for those who make files.
    pub fn remove(&self, mut unwanted: impl FnMut(&Stored, bool) -> bool) -> Result<Removed, StoreError> {
        let lock = self.lock_file("lock", FlockArg::LockExclusive)?;
        let _alone = lock.ok_or_else(|| StoreError::io("lock", self.root())(Errno::EAGAIN.into()))?;
        let mut removed = Removed::default();
        let index = self.index()?;
        let mut wanted = Vec::new();
        for image in index.images {
            let (_, layers) = self.needs(&image.digest)?;
            let mut used = false;
            for layer in &layers {
                used = used || matches!(alone(&self.layer_path(layer))?, Alone::No);
            }
            if unwanted(&image, used) { removed.images.push(image) } else { wanted.push(image) }
        }
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for image in &wanted {
            let (image_blobs, image_layers) = self.needs(&image.digest)?;
            blobs.extend(image_blobs.iter().map(|blob| self.blob_path(blob)));
            layers.extend(image_layers.iter().map(|layer| self.layer_path(layer)));
        }
        if !removed.images.is_empty() {
            self.change_index(|index| index.images = wanted)?;
        }
        for blob in self.files_but("blobs/sha256", &blobs)? {
            remove_file(blob, &mut removed)?;
        }
        for layer in self.files_but("layers", &layers)? {
            // The lock is kept until the file is gone: who waits for it to hold the layer sees that.
            if let Alone::Yes(_lock) = alone(&layer)? {
                remove_file(layer, &mut removed)?;
            }
        }
        Ok(removed)
    }

    /// The blobs and the layers of an image, as far as they are there.
    fn needs(&self, manifest: &Digest) -> Result<(Vec<Digest>, Vec<Digest>), StoreError> {
        let mut blobs = vec![manifest.clone()];
        let Some(needs) = self.parse_blob::<Needs>(manifest)? else { return Ok((blobs, Vec::new())) };
        let config = self.parse_blob::<RootFs>(&needs.config.digest)?;
        blobs.extend(needs.layers.into_iter().map(|layer| layer.digest));
        blobs.push(needs.config.digest);
        Ok((blobs, config.map(|config| config.rootfs.diff_ids).unwrap_or_default()))
    }

    /// What a blob says; none if it is not there, or says something else.
    fn parse_blob<T: for<'de> Deserialize<'de>>(&self, digest: &Digest) -> Result<Option<T>, StoreError> {
        match self.read_blob(digest) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files in a directory of the store that are not in `wanted`.
    fn files_but(&self, directory: &str, wanted: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.root().join(directory);
        let error = StoreError::io("list", &directory);
        let paths = fs::read_dir(&directory).map_err(&error)?.map(|entry| entry.map(|entry| entry.path()));
        let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(&error)?;
        Ok(paths.into_iter().filter(|path| !wanted.contains(path)).collect())
    }
}

fn remove_file(path: PathBuf, removed: &mut Removed) -> Result<(), StoreError> {
    let error = StoreError::io("remove", &path);
    removed.bytes += fs::symlink_metadata(&path).map_err(&error)?.blocks() * 512;
    fs::remove_file(&path).map_err(&error)?;
    removed.files.push(path);
    Ok(())
}

/// Whether nobody holds a layer.
enum Alone {
    /// Nor can, as long as this is there.
    Yes(Option<Flock<File>>),
    No,
}

fn alone(layer: &Path) -> Result<Alone, StoreError> {
    match File::open(layer) {
        Ok(file) => {
            let lock = lock(file, FlockArg::LockExclusiveNonblock).map_err(StoreError::io("lock", layer))?;
            Ok(lock.map_or(Alone::No, |lock| Alone::Yes(Some(lock))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Alone::Yes(None)),
        Err(source) => Err(StoreError::io("open", layer)(source)),
    }
}
