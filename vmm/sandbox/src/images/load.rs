//! Archives of images: from files that can be sought in, and from those that cannot.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::image::{ImageError, Limits};
use super::import;
use super::layer::decompress;
use super::layout::Layout;
use super::origin::OriginError;
use super::progress::Progress;
use super::reference::Reference;
use super::store::{Session, Store, Stored};

/// Brings every image of an archive into the store, under the names that the archive has for it.
pub fn load(
    store: &Store,
    place: &str,
    archive: File,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Vec<Stored>, ImageError> {
    let session = store.session()?;
    let mut loaded = Vec::new();
    for layout in Layout::archive(place, seekable(&session, place, archive)?, None)? {
        let mut names: Vec<String> = layout.names.iter().filter_map(|name| full_name(name)).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            loaded.push(import::import(&session, &layout, None, limits, progress)?);
        }
        for name in names {
            loaded.push(import::import(&session, &layout, Some(&name), limits, progress)?);
        }
    }
    Ok(loaded)
}

/// The images of the archive at `path`, or the one that is wanted.
pub(super) fn open_archive(
    session: &Session<'_>,
    path: &Path,
    wanted: Option<&str>,
) -> Result<Vec<Layout>, ImageError> {
    let place = path.display().to_string();
    let file = File::open(path).map_err(|source| unreadable(&place, source))?;
    Ok(Layout::archive(&place, seekable(session, &place, file)?, wanted)?)
}

/// The archive as a file that can be sought in and is not compressed; a copy if need be.
fn seekable(session: &Session<'_>, place: &str, archive: File) -> Result<File, ImageError> {
    let error = |source| unreadable(place, source);
    let kind = archive.metadata().map_err(error)?.file_type();
    if kind.is_dir() {
        return Err(error(io::ErrorKind::IsADirectory.into()));
    }
    let mut head = [0; 2];
    if kind.is_file() {
        let read = (&archive).read(&mut head).map_err(error)?;
        (&archive).seek(SeekFrom::Start(0)).map_err(error)?;
        // The first letters of a name: an archive that is compressed does not begin with such.
        if head.iter().take(read).all(u8::is_ascii_graphic) {
            return Ok(archive);
        }
    }
    let copy = session.temporary()?;
    let mut plain = decompress(BufReader::new(archive)).map_err(error)?;
    io::copy(&mut plain, &mut copy.file()).map_err(error)?;
    copy.file().seek(SeekFrom::Start(0)).map_err(error)?;
    // The file has no name from here on, and is gone when it is closed.
    copy.file().try_clone().map_err(error)
}

/// A name of an image in full; none for what only its archive can tell apart, as a tag alone.
fn full_name(name: &str) -> Option<String> {
    let reference: Reference = name.contains([':', '/']).then(|| name.parse().ok())??;
    Some(reference.to_string())
}

fn unreadable(place: &str, source: io::Error) -> ImageError {
    OriginError::Io { place: place.to_owned(), what: "the archive".into(), source }.into()
}
