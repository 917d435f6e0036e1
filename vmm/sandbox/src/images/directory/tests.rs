//! Directories of this machine as images.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::images::erofs::read::{self, File as Read};
use crate::images::store::Store;

/// A root file system with a file of each kind that everybody can make.
fn root_file_system() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("bin")).expect("a directory");
    fs::write(path("bin/sh"), vec![b'x'; 10_000]).expect("a file");
    fs::set_permissions(path("bin/sh"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    fs::hard_link(path("bin/sh"), path("bin/ash")).expect("a link");
    symlink("/etc/passwd", path("link")).expect("a link");
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    root
}

fn files(image: &Image) -> std::collections::BTreeMap<Vec<u8>, Read> {
    read::read(&fs::read(&image.layers[0].erofs).expect("the image")).expect("it can be read")
}

#[test]
fn a_directory_is_an_image_of_one_layer() {
    let (root, data) = (root_file_system(), tempfile::tempdir().expect("a directory"));
    let store = Store::open(data.path()).expect("a store");
    let session = store.session().expect("a session");
    let image = image(&session, root.path(), "dir:x").expect("an image");
    let files = files(&image);
    let names: Vec<_> = files.keys().map(|name| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["", "bin", "bin/ash", "bin/sh", "link", "pipe"]);
    assert_eq!((files[&b"bin/sh"[..]].mode, files[&b"bin/sh"[..]].links), (0o104_755, 2));
    assert_eq!(files[&b"bin/ash"[..]].contents, vec![b'x'; 10_000]);
    assert_eq!(files[&b"link"[..]].contents, b"/etc/passwd");
    assert_eq!(files[&b"pipe"[..]].mode & 0o170_000, 0o010_000);
    assert_eq!(image.config.working_dir().as_deref(), Some("/"));
}

#[test]
fn it_is_made_again_only_when_something_changed() {
    let (root, data) = (root_file_system(), tempfile::tempdir().expect("a directory"));
    let store = Store::open(data.path()).expect("a store");
    let session = store.session().expect("a session");
    let made = |name| image(&session, root.path(), name).expect("an image").digest;
    let first = made("dir:x");
    assert_eq!(made("dir:x"), first);
    fs::write(root.path().join("bin/sh"), vec![b'y'; 10_000]).expect("a file");
    let second = image(&session, root.path(), "dir:x").expect("an image");
    assert_ne!(second.digest, first);
    assert_eq!(files(&second)[&b"bin/sh"[..]].contents, vec![b'y'; 10_000]);
}

#[test]
fn what_is_no_directory_is_told() {
    let (root, data) = (root_file_system(), tempfile::tempdir().expect("a directory"));
    let store = Store::open(data.path()).expect("a store");
    let session = store.session().expect("a session");
    let file = root.path().join("bin/sh");
    let error = image(&session, &file, "dir:x").expect_err("it is a file").to_string();
    assert_eq!(
        error,
        format!("cannot use '{}' as a root file system: it is not a directory", file.display())
    );
    let error = image(&session, &root.path().join("gone"), "dir:x").expect_err("it is not there").to_string();
    assert!(error.starts_with("cannot open '"), "{error}");
}

#[test]
fn a_file_that_became_a_link_meanwhile_is_not_followed() {
    let (root, secret) = (root_file_system(), tempfile::tempdir().expect("a directory"));
    fs::write(secret.path().join("sh"), "secret").expect("a file");
    let opened = Root::open(root.path()).expect("a directory");
    let found = opened.walk().expect("its files");
    fs::rename(root.path().join("bin"), root.path().join("old")).expect("a new name");
    symlink(secret.path(), root.path().join("bin")).expect("a link");
    let (image, spool) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    let error = opened.write(&found, &image, &spool).expect_err("it is refused").to_string();
    assert!(error.ends_with("bin' of the root file system"), "{error}");
}
