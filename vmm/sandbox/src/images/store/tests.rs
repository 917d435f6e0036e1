//! Who may remove what, and when.

use std::io::Write;

use super::*;
use crate::images::testing::{Layout, layer_archive};
use crate::images::{Image, ImageSource, Options, Quiet, resolve};

fn store() -> (tempfile::TempDir, Store) {
    let data = tempfile::tempdir().expect("a directory");
    let store = Store::open(data.path()).expect("a store");
    (data, store)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// An image in the store, of one layer.
fn image(store: &Store, layout: &Layout, tag: &str) -> Image {
    let source = ImageSource::Oci(layout.path().to_owned(), Some(tag.to_owned()));
    resolve(store, &source, &Options::default(), &Quiet).expect("an image")
}

#[test]
fn a_file_that_is_not_kept_is_gone() {
    let (data, store) = store();
    let session = store.session().expect("a session");
    let temporary = session.temporary().expect("a file");
    temporary.file().write_all(b"half").expect("a write");
    drop(temporary);
    assert_eq!(names(&data.path().join("tmp")), [""; 0]);
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let (data, store) = store();
    let session = store.session().expect("a session");
    let temporary = session.temporary().expect("a file");
    Store::open(data.path()).expect("a store");
    assert_eq!(names(&data.path().join("tmp")).len(), 1, "somebody is at work");
    drop(session);
    // As a process does that is killed.
    std::mem::forget(temporary);
    Store::open(data.path()).expect("a store");
    assert_eq!(names(&data.path().join("tmp")), [""; 0]);
}

#[test]
fn a_layer_is_removed_with_the_last_image_that_needs_it() {
    let (data, store) = store();
    let shared = layer_archive(&[("a", b"shared")]);
    let layout = Layout::empty();
    layout.add("one", &[shared.clone(), layer_archive(&[("b", b"1")])]);
    layout.add("two", &[shared]);
    drop((image(&store, &layout, "one"), image(&store, &layout, "two")));
    let removed =
        store.remove(|image, _| image.name().is_some_and(|name| name.ends_with("one"))).expect("removed");
    assert_eq!(removed.images.len(), 1);
    assert_eq!(names(&data.path().join("layers")).len(), 1);
    image(&store, &layout, "two");
    store.remove(|_, _| true).expect("removed");
    assert_eq!(names(&data.path().join("layers")), [""; 0]);
    assert_eq!(names(&data.path().join("blobs/sha256")), [""; 0]);
}

#[test]
fn a_layer_in_use_stays_until_it_is_not() {
    let (data, store) = store();
    let layout = Layout::empty();
    layout.add("one", &[layer_archive(&[("a", b"1")])]);
    let held = image(&store, &layout, "one");
    let mut seen = Vec::new();
    store
        .remove(|_, used| {
            seen.push(used);
            true
        })
        .expect("removed");
    assert_eq!(seen, [true]);
    assert!(held.layers[0].erofs.exists());
    drop(held);
    store.remove(|_, _| true).expect("removed");
    assert_eq!(names(&data.path().join("layers")), [""; 0]);
}

#[test]
fn a_hold_can_be_taken_again_by_name() {
    let (_data, store) = store();
    let layout = Layout::empty();
    layout.add("one", &[layer_archive(&[("a", b"1")])]);
    let Image { layers, hold, .. } = image(&store, &layout, "one");
    let again = Hold::take([layers[0].erofs.as_path()]).expect("a hold");
    drop(hold);
    store.remove(|_, _| true).expect("removed");
    assert!(layers[0].erofs.exists());
    drop(again);
    store.remove(|_, _| true).expect("removed");
    assert!(matches!(Hold::take([layers[0].erofs.as_path()]), Err(HoldError::Gone(_))));
}

#[test]
fn an_image_that_gets_anothers_name_takes_it() {
    let (_data, store) = store();
    let layout = Layout::empty();
    layout.add("one", &[layer_archive(&[("a", b"1")])]);
    let first = image(&store, &layout, "one").digest;
    layout.add("one", &[layer_archive(&[("a", b"2")])]);
    let second = image(&store, &layout, "one").digest;
    assert_ne!(first, second);
    let index = store.index().expect("an index");
    assert_eq!(index.images.iter().map(|image| &image.digest).collect::<Vec<_>>(), [&second]);
}
