//! Archives that want out, or more than there is.

use super::*;
use crate::images::testing::archive::Header;

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../etc/passwd", "/../x", "a/../../x", ".."] {
        let message =
            format!("'{name}' is no name of a file in an image: it leads out of it, or is too long");
        assert_eq!(refusal(&Archive::default().file(name, b"")), message);
    }
}

#[test]
fn an_absolute_name_starts_at_the_images_root() {
    assert_eq!(names(&Archive::default().file("/etc/passwd", b"")), ["etc", "etc/passwd"]);
}

#[test]
fn a_way_through_a_symbolic_link_stays_in_the_image() {
    for (target, written) in [("/etc", "etc/x"), ("../../../../etc", "etc/x"), ("b/./c", "b/c/x"), ("/", "x")]
    {
        let archive = Archive::default().symlink("a", target).file("a/x", b"1");
        assert!(names(&archive).contains(&written.to_owned()), "{target}: {:?}", names(&archive));
    }
}

#[test]
fn hard_links_to_what_the_layer_does_not_have_are_refused() {
    for target in ["/etc/passwd", "../../etc/passwd", "a", "dir", "link/passwd", ""] {
        let archive = Archive::default().directory("dir").symlink("link", "/etc").hard_link("a", target);
        let message = format!("'a' is a hard link to '{target}', which is no file of the same layer");
        assert_eq!(refusal(&archive), message);
    }
}

#[test]
fn a_hard_link_to_itself_is_the_file() {
    assert_eq!(files(&Archive::default().file("a", b"1").hard_link("a", "a"))[&b"a"[..]].contents, b"1");
}

#[test]
fn of_two_entries_with_one_name_the_later_stands() {
    let archive = Archive::default()
        .file("a", b"1")
        .file("a", b"2")
        .file("b/in", b"1")
        .file("b", b"2")
        .file("c", b"1")
        .directory("c")
        .file("d/in", b"1")
        .directory("d");
    let files = files(&archive);
    assert_eq!((&files[&b"a"[..]].contents[..], &files[&b"b"[..]].contents[..]), (&b"2"[..], &b"2"[..]));
    assert!(!files.contains_key(&b"b/in"[..]) && files.contains_key(&b"d/in"[..]));
    assert_eq!(files[&b"c"[..]].mode & 0o170_000, 0o040_000);
}

#[test]
fn a_file_is_no_directory() {
    let message = "'a/b' is to be in something that is no directory";
    assert_eq!(refusal(&Archive::default().file("a", b"").file("a/b", b"")), message);
    assert_eq!(refusal(&Archive::default().device(b'3', "a", 1, 3).file("a/b", b"")), message);
}

#[test]
fn links_in_a_circle_end() {
    let archive = Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert_eq!(refusal(&archive), "'a/x' leads through more than 40 symbolic links");
}

#[test]
fn names_that_are_too_long_are_refused() {
    let (name, path) = ("n".repeat(256), "n/".repeat(2049));
    for long in [&name, &path] {
        let archive = Archive::default().pax(&[("path", long.as_bytes())]).file("cut", b"");
        assert!(
            refusal(&archive)
                .ends_with("is no name of a file in an image: it leads out of it, or is too long")
        );
    }
}

#[test]
fn a_whiteout_of_nothing_is_refused() {
    for name in [".wh.", "a/.wh..", ".wh..."] {
        assert!(refusal(&Archive::default().file(name, b"")).contains("is no name of a file"), "{name}");
    }
}

#[test]
fn a_bomb_is_refused_before_it_is_written() {
    let mut header = Header::new(b'0', b"bomb");
    header.put(124, b"77777777777\0");
    let message =
        "its files are more than the 1024 MiB that a layer may have; RVM_LAYER_LIMIT=SIZE allows more";
    assert_eq!(refusal(&Archive::default().entry(&header, b"")), message);

    let sparse: [(&str, &[u8]); 2] = [("GNU.sparse.map", b"0,0"), ("GNU.sparse.size", b"1000000000000")];
    assert_eq!(refusal(&Archive::default().pax(&sparse).file("bomb", b"")), message);
}

#[test]
fn names_and_attributes_are_bounded() {
    let many = (0..5000).fold(Archive::default(), |archive, n| archive.file(&n.to_string(), b""));
    let value = [0; 60_000];
    let large = (0..20).fold(Archive::default(), |archive, n| {
        archive.pax(&[("SCHILY.xattr.user.a", &value)]).file(&n.to_string(), b"")
    });
    let deep = "d/".repeat(2000);
    let implied = (0..9).fold(Archive::default(), |archive, n| {
        archive.pax(&[("path", format!("{n}/{deep}f").as_bytes())]).file("cut", b"")
    });
    for archive in [many, large, implied] {
        let message = "its names and attributes of files are more than the 1 MiB that a layer may have";
        assert_eq!(refusal(&archive), message);
    }
}

#[test]
fn sizes_that_lie_are_told() {
    let mut header = Header::new(b'0', b"short");
    header.size(5000);
    let archive = Archive::default().entry(&header, b"");
    let error = image(archive.unfinished()).expect_err("the contents are missing");
    assert_eq!(error.to_string(), "cannot copy 'short' to the image");

    let mut long_name = Header::new(b'L', b"././@LongLink");
    long_name.put(124, b"77777777777\0");
    let error = refusal(&Archive::default().entry(&long_name, b""));
    assert!(error.starts_with("a header for a long name"), "{error}");
}

#[test]
fn an_archive_cut_short_anywhere_is_an_error_or_a_shorter_archive() {
    let whole = Archive::default().pax(&[("mtime", b"1")]).file("a", &[b'x'; 700]).file("b", b"1");
    for length in 0..whole.unfinished().len() {
        let built = image(&whole.unfinished()[..length]);
        assert_eq!(built.is_ok(), matches!(length, 0 | 2560), "{length} bytes");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    for (bytes, message) in [
        (&[b'x'; 512][..], "there is no tar header where one must be: a number in it is none"),
        (&[b'x'; 100], "it is cut short within a header"),
    ] {
        assert_eq!(image(bytes).expect_err("it is refused").to_string(), message);
    }
    let mut block = Header::new(b'0', b"a").bytes();
    block[0] = b'b';
    let message = "there is no tar header where one must be: its checksum is wrong";
    assert_eq!(image(&block).expect_err("it is refused").to_string(), message);
}

#[test]
fn types_of_other_systems_are_named() {
    let archive = Archive::default().entry(&Header::new(b'V', b"volume"), b"");
    assert_eq!(refusal(&archive), "'volume' is of type 'V', which rvm does not know");
}
