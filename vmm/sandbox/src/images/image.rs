//! Images that can be run.

use std::io;
use std::path::PathBuf;

use oci_spec::image::{Arch, Config, ImageConfiguration};

use super::digest::Digest;
use super::directory;
use super::import;
use super::layer::LayerError;
pub use super::layer::Limits;
use super::layout::Layout;
use super::list::find;
use super::manifest::{Manifest, ManifestError, Platform};
use super::options::{Options, OptionsError};
use super::origin::OriginError;
use super::progress::Progress;
use super::reference::{ImageSource, ReferenceError};
use super::registry::Remote;
use super::store::{Hold, HoldError, Session, Store, StoreError, Stored};

/// What a process finds programs by, where the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image, ready to be run. Its layers cannot be removed as long as `hold` is there.
#[derive(Debug)]
pub struct Image {
    /// The name that it was asked for by, in full.
    pub reference: String,
    /// The digest of its manifest; of a directory, that of what is in it.
    pub digest: Digest,
    /// How to run it. `Env` has a `PATH`, `WorkingDir` is not empty.
    pub config: Config,
    /// The processor that it is for.
    pub architecture: Arch,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// When it was made, as its configuration says it (RFC 3339).
    pub created: Option<String>,
    /// Bytes of its layers' file systems.
    pub size: u64,
    /// Keeps the layers; a supervisor takes it over.
    pub hold: Hold,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its contents.
    pub diff_id: Digest,
    /// The file with its file system: a multiple of 4096 bytes.
    pub erofs: PathBuf,
    /// The file's size in bytes.
    pub size: u64,
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time: there may be a newer one.
    Always,
    /// When it is not in the store.
    #[default]
    Missing,
    /// Never.
    Never,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The environment says what cannot be.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// It has no such name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It is not here, and is not to be fetched.
    #[error("image '{0}' is not on this machine; rvm pull {0} fetches it")]
    NotHere(String),
    /// Some digits of a digest that several images begin with.
    #[error("{count} images begin with '{digits}'; give more digits")]
    Ambiguous {
        /// What was given.
        digits: String,
        /// How many images they may mean.
        count: usize,
    },
    /// Several images where one is meant.
    #[error("'{source_name}' has {count} images: say which, as '{source_name}:TAG'")]
    Several {
        /// What was asked for.
        source_name: String,
        /// How many there are.
        count: usize,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be kept.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// There is something wrong with it.
    #[error("cannot use image '{image}'")]
    Unusable {
        /// What was asked for.
        image: String,
        /// What is wrong.
        #[source]
        source: Box<ImageError>,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Its manifest is of no use.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An index of indexes.
    #[error("its index leads to further indexes, and to no image")]
    Depth,
    /// Its configuration is of no use.
    #[error("its configuration cannot be understood: {0}")]
    Config(String),
    /// Its parts contradict each other.
    #[error("its manifest has {layers} layers and its configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// The connection, or a file, broke off.
    #[error("cannot read blob {blob}")]
    Fetch {
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store's disk is full, or worse.
    #[error("cannot write blob {blob} to the store of images; nothing of it is kept")]
    Write {
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Cut short, or something else.
    #[error(
        "blob {blob} has {found} bytes or more and must have {expected}: it is cut short or not what the image names"
    )]
    Size {
        /// The blob.
        blob: Digest,
        /// As the manifest says.
        expected: u64,
        /// As they came.
        found: u64,
    },
    /// Something else than what was asked for.
    #[error("a blob has digest {found} and must have {expected}: it was damaged or replaced on its way")]
    Digest {
        /// As the manifest says.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// A layer that is no layer.
    #[error("cannot convert layer {layer}")]
    Layer {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A directory that cannot be an image.
    #[error(transparent)]
    Directory(#[from] directory::DirectoryError),
}

impl ImageError {
    /// With the image's name, where the message has to have one.
    fn about(self, image: &ImageSource) -> Self {
        use ImageError::{Config, Depth, Digest, Fetch, Layer, LayerCount, Manifest, Size, Write};
        let nameless = matches!(
            self,
            Manifest(_)
                | Depth
                | Config(_)
                | LayerCount { .. }
                | Layer { .. }
                | Fetch { .. }
                | Write { .. }
                | Size { .. }
                | Digest { .. }
        );
        match nameless {
            true => Self::Unusable { image: image.to_string(), source: Box::new(self) },
            false => self,
        }
    }
}

/// Finds an image, or fetches it; with its layers held. Blocks while it is fetched.
pub fn resolve(
    store: &Store,
    source: &ImageSource,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Image, ImageError> {
    find_or_fetch(store, source, options, progress).map_err(|error| error.about(source))
}

fn find_or_fetch(
    store: &Store,
    source: &ImageSource,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Image, ImageError> {
    let Options { policy, limits, registry } = options;
    let absolute = source.clone().absolute();
    let source =
        &absolute.map_err(|source| OriginError::Io { place: ".".into(), what: "the path".into(), source })?;
    let session = store.session()?;
    match source {
        ImageSource::Registry(reference) => {
            let name = reference.to_string();
            let index = store.index()?;
            let short = reference.short();
            // Somebody may mean the digits of a digest.
            let digits = short.strip_suffix(":latest").unwrap_or(&short);
            match index.named(&name).or_else(|| find(&index, digits).ok()) {
                Some(stored) if *policy != PullPolicy::Always => open(&session, stored, &name, limits),
                _ if *policy == PullPolicy::Never => Err(ImageError::NotHere(short)),
                _ => {
                    let remote = Remote::new(reference, registry, progress);
                    let stored = import::import(&session, &remote, Some(&name), limits, progress)?;
                    open(&session, &stored, &name, limits)
                }
            }
        }
        ImageSource::Oci(path, tag) => {
            from_layout(&session, source, Layout::directory(path, tag.as_deref())?, limits, progress)
        }
        ImageSource::OciArchive(path, tag) | ImageSource::DockerArchive(path, tag) => {
            let images = super::load::open_archive(&session, path, tag.as_deref())?;
            from_layout(&session, source, images, limits, progress)
        }
        ImageSource::Directory(path) => Ok(directory::image(&session, path, &source.to_string())?),
    }
}

/// The one image of a layout.
fn from_layout(
    session: &Session<'_>,
    source: &ImageSource,
    images: Vec<Layout>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Image, ImageError> {
    let name = source.to_string();
    let [layout] = images.as_slice() else {
        return Err(ImageError::Several { source_name: name, count: images.len() });
    };
    let stored = import::import(session, layout, Some(&name), limits, progress)?;
    open(session, &stored, &name, limits)
}

/// An image in the store, with its layers held.
pub(super) fn open(
    session: &Session<'_>,
    stored: &Stored,
    name: &str,
    limits: &Limits,
) -> Result<Image, ImageError> {
    let store = session.store;
    let Manifest::Image { config, layers: blobs } = Manifest::parse(&store.read_blob(&stored.digest)?)?
    else {
        return Err(ImageError::Depth);
    };
    let opened = OpenedConfig::read(store, &config.digest)?;
    let mut layers = Vec::new();
    for (blob, diff_id) in blobs.iter().zip(&opened.diff_ids) {
        let erofs = store.layer_path(diff_id);
        if !erofs.exists() {
            import::convert(session, &blob.digest, diff_id, limits)?;
        }
        layers.push(Layer::at(diff_id, erofs)?);
    }
    let hold = Hold::take(layers.iter().map(|layer| layer.erofs.as_path()))?;
    Ok(Image {
        reference: name.to_owned(),
        digest: stored.digest.clone(),
        config: opened.config,
        architecture: opened.platform.architecture,
        size: layers.iter().map(|layer| layer.size).sum(),
        layers,
        created: opened.created,
        hold,
    })
}

impl Layer {
    pub(super) fn at(diff_id: &Digest, erofs: PathBuf) -> Result<Self, StoreError> {
        let size = std::fs::metadata(&erofs).map_err(StoreError::io("inspect", &erofs))?.len();
        Ok(Self { diff_id: diff_id.clone(), erofs, size })
    }
}

/// What is read of an image's configuration.
#[derive(Debug)]
pub struct OpenedConfig {
    /// How to run it.
    pub config: Config,
    /// What it runs on.
    pub platform: Platform,
    /// The digests of its layers' contents, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// When it was made.
    pub created: Option<String>,
}

impl OpenedConfig {
    /// Reads the configuration with this digest.
    pub fn read(store: &Store, digest: &Digest) -> Result<Self, ImageError> {
        let bytes = store.read_blob(digest)?;
        let parsed: ImageConfiguration =
            serde_json::from_slice(&bytes).map_err(|error| ImageError::Config(error.to_string()))?;
        let diff_ids = parsed.rootfs().diff_ids().iter().map(|diff_id| diff_id.parse());
        Ok(Self {
            config: filled(parsed.config().clone().unwrap_or_default()),
            platform: Platform { os: parsed.os().clone(), architecture: parsed.architecture().clone() },
            diff_ids: diff_ids
                .collect::<Result<_, _>>()
                .map_err(|error: super::digest::DigestError| ImageError::Config(error.to_string()))?,
            created: parsed.created().clone(),
        })
    }
}

/// A configuration with what every container has.
pub(super) fn filled(mut config: Config) -> Config {
    let mut env = config.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.insert(0, PATH.to_owned());
    }
    config.set_env(Some(env));
    if config.working_dir().as_ref().is_none_or(String::is_empty) {
        config.set_working_dir(Some("/".to_owned()));
    }
    config
}
