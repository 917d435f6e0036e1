//! Images made by hand, for the tests of this crate and of those above it. What goes wrong here is a panic.

pub mod archive;
pub mod registry;

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::digest::Digest;

/// An OCI layout in a directory that is removed with it.
pub struct Layout(tempfile::TempDir);

impl Layout {
    /// A layout without images.
    pub fn empty() -> Self {
        let layout = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir_all(layout.path().join("blobs/sha256")).expect("a directory");
        fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        layout.write_index(&json!([]));
        layout
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds an image of these layers; takes the tag from another. Gives its manifest's digest.
    pub fn add(&self, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let blobs: Vec<_> = layers.iter().map(|layer| self.blob("tar+gzip", &gzip(layer))).collect();
        let config = config("amd64", &diff_ids);
        let config = self.blob("config", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs});
        self.tag(tag, &manifest)
    }

    /// Adds a manifest under a tag.
    pub fn tag(&self, tag: &str, manifest: &Value) -> Digest {
        let mut entry = self.blob("manifest", manifest.to_string().as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = fs::read(self.path().join("index.json")).expect("the index");
        let index: Value = serde_json::from_slice(&index).expect("the index");
        let others = index["manifests"].as_array().expect("a list").iter();
        let others = others.filter(|other| other["annotations"] != entry["annotations"]).cloned();
        let digest = entry["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a digest");
        self.write_index(&others.chain([entry.clone()]).collect());
        digest
    }

    /// Adds a blob; gives its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.path().join("blobs/sha256").join(digest.hex()), bytes).expect("a file");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn write_index(&self, manifests: &Value) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).expect("a file");
    }
}

/// A configuration for images of an architecture.
pub fn config(architecture: &str, diff_ids: &[Digest]) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2026-11-24T12:00:00Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// A layer with these files.
pub fn layer_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let add = |archive: archive::Archive, (name, contents): &(&str, &[u8])| archive.file(name, contents);
    files.iter().fold(archive::Archive::default(), add).bytes()
}

/// Compresses.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}
