//! What a layer's files have, and their images keep.

use super::*;
use crate::images::testing::archive::Header;

#[test]
fn contents_of_all_sizes_are_kept() {
    let mut archive = Archive::default();
    let sizes = [0, 1, 4031, 4032, 4033, 4096, 65_535, 65_536, 65_537, 200_000];
    let contents = |size: usize| (1..=251).cycle().take(size).collect::<Vec<u8>>();
    for size in sizes {
        archive = archive.file(&size.to_string(), &contents(size));
    }
    let files = files(&archive);
    for size in sizes {
        assert!(files[size.to_string().as_bytes()].contents == contents(size), "a file of {size} bytes");
    }
}

#[test]
fn zeros_take_no_room_in_the_image() {
    let mut contents = vec![0; 10 << 20];
    contents[5 << 20] = 1;
    let archive = Archive::default().file("sparse", &contents);
    let image = image(&archive.bytes()).expect("the archive can be understood");
    assert!(image.len() < 100_000, "{} bytes", image.len());
    assert!(read::read(&image).expect("the image can be read")[&b"sparse"[..]].contents == contents);
}

#[test]
fn sparse_files_of_gnu_tar_have_their_holes() {
    // The map is in the header: 1 byte at 3, and the end at 10.
    let mut header = Header::new(b'S', b"old");
    header.put(257, b"ustar  \0").size(1);
    for (at, number) in [(386, 3), (398, 1), (410, 10), (422, 0), (483, 10)] {
        header.put(at, format!("{number:011o}\0").as_bytes());
    }
    let mut new = b"1\n3\n1\n".to_vec();
    new.resize(512, 0);
    new.push(b'x');
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"new"),
        ("GNU.sparse.realsize", b"10"),
    ];
    let archive =
        Archive::default().entry(&header, b"x").pax(&sparse).file("made/up", &new).file("after", b"1");
    let files = files(&archive);
    assert_eq!(files[&b"old"[..]].contents, b"\0\0\0x\0\0\0\0\0\0");
    assert_eq!(files[&b"new"[..]].contents, b"\0\0\0x\0\0\0\0\0\0");
    assert_eq!(files[&b"after"[..]].contents, b"1");
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 4] = [
        ("uid", b"4000000000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.empty", b""),
    ];
    let mut header = Header::new(b'0', b"ping");
    header.put(100, b"0004711\0").put(116, b"0000007\0");
    let files = files(&Archive::default().pax(&records).entry(&header, b""));
    let file = &files[&b"ping"[..]];
    assert_eq!((file.mode, file.uid, file.gid, file.mtime), (0o104_711, 4_000_000_000, 7, (-2, 500_000_000)));
    assert_eq!(file.xattrs[&b"security.capability"[..]], capability);
    assert_eq!(file.xattrs[&b"user.empty"[..]], b"");
}

#[test]
fn devices_pipes_and_links_are_kept() {
    let archive = Archive::default()
        .device(b'3', "dev/null", 1, 3)
        .device(b'4', "dev/disk", 259, 300)
        .device(b'6', "dev/pipe", 0, 0)
        .symlink("bin", "usr/bin");
    let files = files(&archive);
    assert_eq!((files[&b"dev/null"[..]].mode, files[&b"dev/null"[..]].device), (0o020_755, 0x103));
    assert_eq!((files[&b"dev/disk"[..]].mode, files[&b"dev/disk"[..]].device), (0o060_755, 0x11_032c));
    assert_eq!(files[&b"dev/pipe"[..]].mode, 0o010_755);
    assert_eq!((files[&b"bin"[..]].mode, &files[&b"bin"[..]].contents[..]), (0o120_755, &b"usr/bin"[..]));
}

#[test]
fn hard_links_are_one_inode() {
    let files = files(&Archive::default().file("a", b"1").hard_link("b/c", "./a").hard_link("d", "/b/c"));
    let links = [&b"a"[..], b"b/c", b"d"].map(|name| (&files[name].node, files[name].links));
    assert!(links.iter().all(|link| *link == links[0] && link.1 == 3), "{links:?}");
}

#[test]
fn long_names_are_read_in_each_format() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    let mut gnu = Header::new(b'L', b"././@LongLink");
    gnu.size(long.len() + 1);
    let mut ustar = Header::new(b'0', b"file");
    ustar.put(345, "p".repeat(155).as_bytes());
    let archive = Archive::default()
        .entry(&gnu, format!("{long}\0").as_bytes())
        .file("cut", b"gnu")
        .pax(&[("path", format!("{long}2").as_bytes())])
        .file("cut", b"pax")
        .entry(&ustar, b"");
    let files = files(&archive);
    assert_eq!(files[long.as_bytes()].contents, b"gnu");
    assert_eq!(files[format!("{long}2").as_bytes()].contents, b"pax");
    assert!(files.contains_key(format!("{}/file", "p".repeat(155)).as_bytes()));
}

#[test]
fn a_directory_of_many_names_is_read_in_order() {
    let archive =
        (0..1000).rev().fold(Archive::default(), |archive, n| archive.file(&format!("d/{n:090}"), b""));
    // The reader checks their order.
    assert_eq!(files(&archive).len(), 1002);
}

#[test]
fn a_long_target_or_many_attributes_leave_the_inodes_block() {
    let target = "t".repeat(4095);
    let value = [7; 60_000];
    let archive = Archive::default()
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("link", "cut")
        .pax(&[("SCHILY.xattr.user.large", &value)])
        .file("file", b"contents");
    let files = files(&archive);
    assert_eq!(files[&b"link"[..]].contents, target.as_bytes());
    assert_eq!(files[&b"file"[..]].xattrs[&b"user.large"[..]], value);
    assert_eq!(files[&b"file"[..]].contents, b"contents");
}

#[test]
fn the_same_layer_gives_the_same_bytes() {
    let archive =
        Archive::default().directory("a").file("a/b", b"1").symlink("c", "a").hard_link("d", "a/b").bytes();
    assert!(image(&archive).expect("an image") == image(&archive).expect("an image"));
}

#[test]
fn the_archives_digest_is_checked_to_its_last_byte() {
    let archive = Archive::default().file("a", b"1").bytes();
    let build = |archive: &[u8], diff_id| {
        let (image, spool) = (Cursor::new(Vec::new()), Cursor::new(Vec::new()));
        to_erofs(archive, Some(diff_id), &LIMITS, image, spool).map(|_| ())
    };
    let diff_id = Digest::of(&archive);
    assert!(build(&archive, &diff_id).is_ok());
    let longer = [&archive[..], &[0; 512]].concat();
    assert!(matches!(build(&longer, &diff_id), Err(LayerError::DiffId { .. })));
}
