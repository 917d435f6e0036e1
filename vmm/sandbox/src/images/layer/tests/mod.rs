//! Archives made by hand, and what images they become.

mod hostile;
mod kept;
mod whiteouts;

use std::collections::BTreeMap;
use std::io::Cursor;

use super::*;
use crate::images::erofs::read::{self, File};
use crate::images::testing::archive::Archive;

const LIMITS: Limits = Limits { bytes: 1 << 30, metadata: 1 << 20 };

/// The image of an archive, as it is stored.
fn image(archive: &[u8]) -> Result<Vec<u8>, LayerError> {
    let (image, spool) = (Cursor::new(Vec::new()), Cursor::new(Vec::new()));
    let (image, _) = to_erofs(archive, None, &LIMITS, image, spool)?;
    Ok(image.into_inner())
}

/// The files in the image of an archive.
fn files(archive: &Archive) -> BTreeMap<Vec<u8>, File> {
    let image = image(&archive.bytes()).expect("the archive can be understood");
    read::read(&image).expect("the image can be read")
}

/// The names of all files in the image.
fn names(archive: &Archive) -> Vec<String> {
    let names = files(archive).into_keys().filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name).expect("tests use UTF-8")).collect()
}

/// Why an archive is refused.
fn refusal(archive: &Archive) -> String {
    image(&archive.bytes()).expect_err("the archive is refused").to_string()
}
