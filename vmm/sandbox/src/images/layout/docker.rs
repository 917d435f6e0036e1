//! What `docker save` writes: made an OCI manifest.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde_json::json;

use super::files::Files;
use super::{Blob, Layout, OriginError, is_meant};
use crate::images::digest::{Digest, Hashing};
use crate::images::manifest::LAYERS_MAX;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The images of an archive, or those that are meant by `wanted`.
pub fn images(place: &str, files: &Files, wanted: Option<&str>) -> Result<Vec<Layout>, OriginError> {
    let layout = |why: String| OriginError::Layout { place: place.to_owned(), why };
    let list = files.read_small(place, "manifest.json")?;
    let list: Vec<Saved> = serde_json::from_slice(&list)
        .map_err(|error| layout(format!("was not written by docker save: manifest.json: {error}")))?;
    let mut images = Vec::new();
    for saved in list {
        let names = saved.repo_tags.clone().unwrap_or_default();
        if wanted.is_none_or(|wanted| names.iter().any(|name| is_meant(wanted, name))) {
            if saved.layers.len() > LAYERS_MAX {
                return Err(layout(format!("has an image with {} layers", saved.layers.len())));
            }
            images.push(image(place, files, &saved, names)?);
        }
    }
    match (images.is_empty(), wanted) {
        (false, _) => Ok(images),
        (true, Some(wanted)) => {
            Err(OriginError::Missing { place: place.to_owned(), what: format!("image with name '{wanted}'") })
        }
        (true, None) => Err(layout("has no images in it".into())),
    }
}

fn image(place: &str, files: &Files, saved: &Saved, names: Vec<String>) -> Result<Layout, OriginError> {
    let mut blobs = BTreeMap::new();
    let config = files.read_small(place, &saved.config)?;
    let config_descriptor = json!({"mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len()});
    blobs.insert(Digest::of(&config), Blob::Bytes(config));
    let mut layers = Vec::new();
    for name in &saved.layers {
        let mut reader = Hashing::new(files.open(place, name)?);
        let size = io::copy(&mut reader, &mut io::sink());
        let error = |source| OriginError::Io { place: place.to_owned(), what: format!("'{name}'"), source };
        let size = size.map_err(error)?;
        let digest = reader.digest();
        layers.push(json!({"mediaType": LAYER, "digest": digest, "size": size}));
        blobs.insert(digest, Blob::File(name.clone()));
    }
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config_descriptor, "layers": layers});
    let root = (MANIFEST.to_owned(), manifest.to_string().into_bytes());
    Ok(Layout { place: place.to_owned(), files: files.clone(), root, blobs, names })
}
