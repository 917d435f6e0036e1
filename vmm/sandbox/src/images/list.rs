//! What is in the store, for those who look.

use std::fs;
use std::time::SystemTime;

use super::digest::Digest;
use super::image::{ImageError, OpenedConfig};
use super::manifest::{Manifest, Platform};
use super::reference::Reference;
use super::store::{Index, Store, Stored};

/// Fewest digits of a digest that name an image.
const DIGITS_MIN: usize = 4;

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its manifest and its name.
    pub stored: Stored,
    /// What it runs on.
    pub platform: Platform,
    /// When it was made, as its configuration says it (RFC 3339).
    pub created: Option<String>,
    /// When it was fetched, or last fetched again.
    pub fetched: Option<SystemTime>,
    /// Bytes on the disk: blobs and layers, those that it shares with other images included.
    pub size: u64,
}

/// The images in the store, the newest first.
pub fn list(store: &Store) -> Result<Vec<Listed>, ImageError> {
    let images = store.index()?.images.into_iter().rev();
    images.map(|stored| listed(store, stored)).collect()
}

fn listed(store: &Store, stored: Stored) -> Result<Listed, ImageError> {
    let Manifest::Image { config, layers } = Manifest::parse(&store.read_blob(&stored.digest)?)? else {
        return Err(ImageError::Depth);
    };
    let opened = OpenedConfig::read(store, &config.digest)?;
    // What has been removed by hand takes no room.
    let on_disk = |path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let blobs = layers.iter().chain([&config]).map(|blob| on_disk(store.blob_path(&blob.digest)));
    let layers = opened.diff_ids.iter().map(|diff_id| on_disk(store.layer_path(diff_id)));
    let fetched = fs::metadata(store.blob_path(&stored.digest)).and_then(|metadata| metadata.modified()).ok();
    Ok(Listed {
        platform: opened.platform,
        created: opened.created,
        fetched,
        size: blobs.chain(layers).sum(),
        stored,
    })
}

/// The image that somebody means by `text`: a name, or the first digits of its digest.
pub fn find<'a>(index: &'a Index, text: &str) -> Result<&'a Stored, ImageError> {
    let full = text.parse::<Reference>().map(|reference| reference.to_string());
    let named = full.ok().and_then(|name| index.named(&name)).or_else(|| index.named(text));
    if let Some(stored) = named {
        return Ok(stored);
    }
    let mut meant: Vec<&Stored> = index.images.iter().filter(|stored| begins(&stored.digest, text)).collect();
    meant.dedup_by_key(|stored| &stored.digest);
    match meant.as_slice() {
        [stored] => Ok(stored),
        [] => Err(ImageError::NotHere(text.to_owned())),
        several => Err(ImageError::Ambiguous { digits: text.to_owned(), count: several.len() }),
    }
}

fn begins(digest: &Digest, text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.len() >= DIGITS_MIN && digest.hex().starts_with(digits)
}
