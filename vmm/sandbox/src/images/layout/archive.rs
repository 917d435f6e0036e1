//! Finds the files in a tar archive of a layout.

use std::collections::HashMap;
use std::fs::File;
use std::io::Seek;
use std::sync::Arc;

use super::OriginError;
use super::files::Files;
use crate::images::tar::{EntryKind, TarReader};

/// Most files in an archive: each is a blob, and an image has hundreds.
const MEMBERS_MAX: usize = 1 << 16;

/// Reads the archive's headers.
pub fn open(place: &str, file: File) -> Result<Files, OriginError> {
    let layout = |why: String| OriginError::Layout { place: place.to_owned(), why };
    let not_read = |source| OriginError::Io { place: place.to_owned(), what: "the headers".into(), source };
    let mut members = HashMap::new();
    let mut links = Vec::new();
    let mut archive = TarReader::new(&file);
    while let Some(entry) =
        archive.next_entry().map_err(|error| layout(format!("is no tar archive: {error}")))?
    {
        let shown = String::from_utf8_lossy(&entry.name).into_owned();
        let name = shown.strip_prefix("./").unwrap_or(&shown).to_owned();
        match entry.kind {
            EntryKind::File { size } => {
                let at = (&file).stream_position().map_err(not_read)?;
                members.insert(name, (at, size));
            }
            // Old archives have a layer that several images share once, and links to it.
            EntryKind::Symlink(target) => links.push((name, String::from_utf8_lossy(&target).into_owned())),
            _ => {}
        }
        let left = archive.leave();
        let left = i64::try_from(left).map_err(|_| layout(format!("is damaged at '{shown}'")))?;
        (&file).seek_relative(left).map_err(not_read)?;
        if members.len() + links.len() > MEMBERS_MAX {
            return Err(layout(format!("has more than {MEMBERS_MAX} files")));
        }
    }
    for (name, target) in links {
        // "../HEX/layer.tar"
        if let Some(member) = target.strip_prefix("../").and_then(|target| members.get(target)).copied() {
            members.insert(name, member);
        }
    }
    Ok(Files::Archive(Arc::new(file), Arc::new(members)))
}
