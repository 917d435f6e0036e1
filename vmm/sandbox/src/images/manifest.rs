//! Manifests: which blobs an image is made of (OCI image specification, "Image Manifest" and "Image Index"; Docker's
//! formats of version 2 are the same in all that is read here).

use std::fmt;

use oci_spec::image::{Arch, Os};
use serde::Deserialize;

use super::digest::Digest;

/// Largest manifest, index or configuration that is read. Registries take no larger ones.
pub const MAX: u64 = 4 << 20;
/// Most layers in an image: overlayfs takes 500.
pub const LAYERS_MAX: usize = 500;

/// A reference to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// Its kind.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Of a manifest: what it runs on.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// More about it.
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As `linux`.
    pub os: Os,
    /// As `amd64`.
    pub architecture: Arch,
}

/// A blob that leads to others.
#[derive(Debug)]
pub enum Manifest {
    /// To those of an image.
    Image {
        /// The configuration.
        config: Descriptor,
        /// The layers, the lowest first.
        layers: Vec<Descriptor>,
    },
    /// To the manifests of the same image for several platforms.
    Index(Vec<Descriptor>),
}

/// Why a manifest is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is none.
    #[error("its manifest is no OCI or Docker manifest: {0}")]
    Syntax(String),
    /// An image that nobody can have.
    #[error("its manifest has {0} layers; rvm takes up to {LAYERS_MAX}")]
    Layers(usize),
    /// It is for other machines.
    #[error("it is for {found}, and this machine is {wanted}")]
    Platform {
        /// What it is for.
        found: String,
        /// What it should be for.
        wanted: Platform,
    },
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let syntax = |why: &str| ManifestError::Syntax(why.to_owned());
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| syntax(&error.to_string()))?;
        match (wire.schema_version, wire.config, wire.layers, wire.manifests) {
            (2, _, _, Some(manifests)) => Ok(Self::Index(manifests)),
            (2, Some(_), Some(layers), None) if layers.len() > LAYERS_MAX => {
                Err(ManifestError::Layers(layers.len()))
            }
            (2, Some(config), Some(layers), None) => Ok(Self::Image { config, layers }),
            (2, ..) => Err(syntax("it has neither layers nor manifests")),
            (version, ..) => Err(syntax(&format!("its schema is of version {version}, not 2"))),
        }
    }
}

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 };
        Self { os: Os::Linux, architecture }
    }

    /// The manifest for this platform. One that does not say what it is for may be.
    pub fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, ManifestError> {
        let told = |entry: &&Descriptor| entry.platform.as_ref() == Some(self);
        let untold = || manifests.iter().find(|entry| entry.platform.is_none());
        manifests.iter().find(told).or_else(untold).ok_or_else(|| {
            // Statements about an image stand in the index beside it, for the platform "unknown".
            let known = |platform: &&Platform| platform.os != Os::Other("unknown".into());
            let found: Vec<String> = manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(known)
                .map(|p| p.to_string())
                .collect();
            let found = if found.is_empty() { "no platform".into() } else { found.join(", ") };
            ManifestError::Platform { found, wanted: self.clone() }
        })
    }

    /// An error unless an image for `found` runs on this platform.
    pub fn check(&self, found: &Self) -> Result<(), ManifestError> {
        match self == found {
            true => Ok(()),
            false => Err(ManifestError::Platform { found: found.to_string(), wanted: self.clone() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |platform: &&str| {
            let digest = Digest::of(platform.as_bytes());
            let platform = platform.split_once('/').map_or(String::new(), |(os, arch)| {
                format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"v8"}}"#)
            });
            format!(r#"{{"mediaType":"m","digest":"{digest}","size":1{platform}}}"#)
        };
        let entries: Vec<_> = platforms.iter().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match Manifest::parse(text.as_bytes()) {
            Ok(Manifest::Index(manifests)) => manifests,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_an_index_the_entry_for_the_platform_is_taken() {
        let wanted = Platform { os: Os::Linux, architecture: Arch::Amd64 };
        let entries = index(&["windows/amd64", "linux/arm64", "linux/amd64", "unknown/unknown"]);
        assert_eq!(wanted.choose(&entries).expect("it is there").digest, Digest::of(b"linux/amd64"));
        let entries = index(&["any"]);
        assert_eq!(wanted.choose(&entries).expect("it may be").digest, Digest::of(b"any"));
        let entries = index(&["linux/arm64", "linux/s390x", "unknown/unknown"]);
        let error = wanted.choose(&entries).expect_err("it is not there").to_string();
        assert_eq!(error, "it is for linux/arm64, linux/s390x, and this machine is linux/amd64");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (text, message) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "its schema is of version 1, not 2"),
            (r#"{"schemaVersion":2}"#, "it has neither layers nor manifests"),
        ] {
            let error = Manifest::parse(text.as_bytes()).expect_err("it is refused").to_string();
            assert_eq!(error, format!("its manifest is no OCI or Docker manifest: {message}"));
        }
    }
}
