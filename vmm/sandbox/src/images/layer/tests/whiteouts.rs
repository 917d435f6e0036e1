//! What a layer removes.

use super::*;

fn is_whiteout(file: &File) -> bool {
    file.mode & 0o170_000 == 0o020_000 && file.device == 0
}

fn is_opaque(file: &File) -> bool {
    file.xattrs.get(&b"trusted.overlay.opaque"[..]).map(Vec::as_slice) == Some(b"y")
}

#[test]
fn a_removed_file_becomes_a_device_0_0() {
    let files = files(&Archive::default().file("etc/.wh.passwd", b""));
    assert!(is_whiteout(&files[&b"etc/passwd"[..]]));
    assert_eq!(files.len(), 3, "the root, etc and passwd");
}

#[test]
fn an_opaque_directory_has_overlayfs_attribute() {
    let files =
        files(&Archive::default().directory("etc").file("etc/.wh..wh..opq", b"").file("etc/new", b"1"));
    assert!(is_opaque(&files[&b"etc"[..]]));
    assert_eq!(files.len(), 3);
}

#[test]
fn a_directory_stays_opaque_when_its_own_entry_comes_later() {
    let files = files(&Archive::default().file("etc/.wh..wh..opq", b"").directory("etc"));
    assert!(is_opaque(&files[&b"etc"[..]]));
}

#[test]
fn a_directory_that_is_removed_and_made_anew_is_opaque() {
    for archive in [
        Archive::default().file(".wh.a", b"").directory("a").file("a/b", b"1"),
        Archive::default().file(".wh.a", b"").file("a/b", b"1"),
        Archive::default().file("a/b", b"1").file(".wh.a", b""),
    ] {
        let files = files(&archive);
        assert!(is_opaque(&files[&b"a"[..]]));
        assert_eq!(files[&b"a/b"[..]].contents, b"1");
    }
}

#[test]
fn a_file_that_is_removed_and_made_anew_is_there() {
    for archive in [
        Archive::default().file(".wh.a", b"").file("a", b"1"),
        Archive::default().file("a", b"1").file(".wh.a", b""),
    ] {
        assert_eq!(files(&archive)[&b"a"[..]].contents, b"1");
    }
}

#[test]
fn aufs_own_files_are_left_out() {
    assert_eq!(
        names(&Archive::default().file(".wh..wh.plnk/x", b"").file(".wh..wh.aufs", b"x").file("a", b"")),
        ["a"]
    );
}

#[test]
fn a_layer_cannot_set_overlayfs_attributes() {
    let records: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.metacopy", b""),
        ("SCHILY.xattr.user.kept", b"1"),
    ];
    let files = files(&Archive::default().pax(&records).directory("a"));
    let names: Vec<_> = files[&b"a"[..]].xattrs.keys().collect();
    assert_eq!(names, [b"user.kept"]);
}
