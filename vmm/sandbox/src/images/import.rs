//! Brings an image into the store: its blobs, as they are, and its layers as file systems.
//!
//! Top down: manifest, configuration, layers beside each other; last of all its name, so that an image that is in the
//! store is there as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::digest::{Digest, Hashing};
use super::image::{ImageError, Limits, OpenedConfig};
use super::layer;
use super::manifest::{Descriptor, Manifest, Platform};
use super::origin::Origin;
use super::progress::{Progress, Step};
use super::store::{Session, Stored};

/// Layers that are fetched and converted at a time, unless there are fewer processors: as many as Docker fetches.
const AT_A_TIME: usize = 3;
/// Indexes that lead to an index, before the image's manifest.
const DEPTH_MAX: usize = 3;

/// Brings the image of `origin` into the store, and gives it `name`.
pub fn import(
    session: &Session<'_>,
    origin: &dyn Origin,
    name: Option<&str>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Stored, ImageError> {
    let platform = Platform::host();
    let (media_type, bytes, manifest) = manifest(origin, &platform)?;
    let (config, layers) = manifest;
    fetch(session, origin, &config, &|_, _| {})?;
    let opened = OpenedConfig::read(session.store, &config.digest)?;
    platform.check(&opened.platform)?;
    let diff_ids = &opened.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(ImageError::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
    }

    let jobs: Vec<_> = layers.iter().zip(diff_ids).collect();
    beside_each_other(&jobs, |(blob, diff_id)| {
        bring_layer(session, origin, blob, diff_id, limits, progress)
    })?;

    let digest = Digest::of(&bytes);
    let stored = Stored::new(&media_type, digest.clone(), bytes.len() as u64, name);
    // An archive that is run again and again is not written again.
    if session.store.index()?.images.contains(&stored) && session.store.blob_path(&digest).exists() {
        return Ok(stored);
    }
    let descriptor = Descriptor {
        media_type,
        digest,
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    };
    keep(session, &descriptor, &mut &bytes[..], &|_, _| {})?;
    session.add_image(stored.clone())?;
    Ok(stored)
}

type ImageBlobs = (Descriptor, Vec<Descriptor>);

/// The manifest of the image for a platform: its kind, its bytes, what it says.
fn manifest(origin: &dyn Origin, platform: &Platform) -> Result<(String, Vec<u8>, ImageBlobs), ImageError> {
    let (mut media_type, mut bytes) = origin.root()?;
    for _ in 0..DEPTH_MAX {
        match Manifest::parse(&bytes)? {
            Manifest::Image { config, layers } => return Ok((media_type, bytes, (config, layers))),
            Manifest::Index(entries) => {
                let entry = platform.choose(&entries)?;
                bytes = origin.manifest(entry)?;
                media_type.clone_from(&entry.media_type);
            }
        }
    }
    Err(ImageError::Depth)
}

/// One layer, from the origin to a file system; what is there already is not made again.
fn bring_layer(
    session: &Session<'_>,
    origin: &dyn Origin,
    blob: &Descriptor,
    diff_id: &Digest,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let store = session.store;
    if store.blob_path(&blob.digest).exists() && store.layer_path(diff_id).exists() {
        progress.layer(&blob.digest, Step::Exists);
        return Ok(());
    }
    fetch(session, origin, blob, &|done, total| progress.layer(&blob.digest, Step::Fetched(done, total)))?;
    progress.layer(&blob.digest, Step::Converting);
    convert(session, &blob.digest, diff_id, limits)?;
    progress.layer(&blob.digest, Step::Done);
    Ok(())
}

/// Makes the file system of a layer whose blob is in the store.
pub(super) fn convert(
    session: &Session<'_>,
    blob: &Digest,
    diff_id: &Digest,
    limits: &Limits,
) -> Result<(), ImageError> {
    let path = session.store.layer_path(diff_id);
    let _one_at_a_time = session.lock_digest(diff_id)?;
    if path.exists() {
        return Ok(());
    }
    let error = |source| ImageError::Layer { layer: blob.clone(), source };
    let io_error = |source| error(layer::LayerError::Io(source));
    let (image, spool) = (session.temporary()?, session.temporary()?);
    let blob_file = File::open(session.store.blob_path(blob)).map_err(io_error)?;
    let writer = BufWriter::with_capacity(1 << 16, image.file());
    let spool = BufferedSpool::new(spool.file());
    layer::to_erofs(blob_file, Some(diff_id), limits, writer, spool).map_err(error)?;
    Ok(image.keep_as(&path)?)
}

/// Brings a blob into the store, unless it is there.
fn fetch(
    session: &Session<'_>,
    origin: &dyn Origin,
    blob: &Descriptor,
    progress: &dyn Fn(u64, u64),
) -> Result<(), ImageError> {
    let path = session.store.blob_path(&blob.digest);
    if path.exists() {
        return Ok(());
    }
    // Several processes, and several images of one process, may want the same blob.
    let _one_at_a_time = session.lock_digest(&blob.digest)?;
    if path.exists() {
        return Ok(());
    }
    keep(session, blob, &mut origin.blob(blob)?, progress)
}

/// Writes a blob to the store, if it has the size and digest that it must have.
fn keep(
    session: &Session<'_>,
    blob: &Descriptor,
    data: &mut dyn Read,
    progress: &dyn Fn(u64, u64),
) -> Result<(), ImageError> {
    let temporary = session.temporary()?;
    let mut data = Hashing::new(data.take(blob.size.saturating_add(1)));
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    loop {
        let read = match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::Fetch { blob: blob.digest.clone(), source }),
        };
        let written = temporary.file().write_all(buffer.get(..read).unwrap_or_default());
        written.map_err(|source| ImageError::Write { blob: blob.digest.clone(), source })?;
        done += read as u64;
        progress(done, blob.size);
    }
    if done != blob.size {
        return Err(ImageError::Size { blob: blob.digest.clone(), expected: blob.size, found: done });
    }
    let found = data.digest();
    if found != blob.digest {
        return Err(ImageError::Digest { expected: blob.digest.clone(), found });
    }
    Ok(temporary.keep_as(&session.store.blob_path(&blob.digest))?)
}

/// Does the jobs on a few threads. After an error no further job is begun; the first error is given.
fn beside_each_other<J: Sync>(
    jobs: &[J],
    work: impl Fn(&J) -> Result<(), ImageError> + Sync,
) -> Result<(), ImageError> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<ImageError>> = Mutex::new(None);
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(processors).min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(job) {
                        next.store(jobs.len(), Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// A spool that writes little at a time to its file, until it is read.
pub(super) struct BufferedSpool<'a>(BufWriter<&'a File>);

impl<'a> BufferedSpool<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self(BufWriter::with_capacity(1 << 16, file))
    }
}

impl Write for BufferedSpool<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for BufferedSpool<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

impl Read for BufferedSpool<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.flush()?;
        let mut file: &File = self.0.get_ref();
        file.read(buffer)
    }
}
