//! A layer of an image as an attacker makes it: from any bytes to an erofs image, which must then be whole.
//!
//! The input is a list of entries; most have honest headers with names that collide, lead elsewhere and
//! whiteout each other, the others are raw blocks. So are archives reached that plain bytes would never be.

#![no_main]

use std::collections::BTreeMap;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use rvm_fuzz::Input;
use rvm_sandbox::images::Limits;
use rvm_sandbox::images::erofs::read;
use rvm_sandbox::images::layer::to_erofs;
use rvm_sandbox::images::testing::archive::{Archive, Header};

/// The type of a regular file, in a mode.
const FILE: u16 = 0o100_000;
const LIMITS: Limits = Limits { bytes: 1 << 20, metadata: 1 << 18 };
const NAMES: [&[u8]; 16] = [
    b"a",
    b"a/b",
    b"a/b/c",
    b"./b",
    b"/a/.",
    b"..",
    b"a/../../b",
    b".wh.a",
    b"a/.wh.b",
    b"a/.wh..wh..opq",
    b".wh.",
    b"",
    b"b/a",
    b"a//c/",
    b"b",
    b"c",
];
const KINDS: &[u8] = b"0123456xLKSgV";
const PAX: [(&str, &[u8]); 8] = [
    ("path", b"a/c"),
    ("linkpath", b"/a/b"),
    ("size", b"3"),
    ("mtime", b"-1.5"),
    ("SCHILY.xattr.user.a", b"value"),
    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ("GNU.sparse.map", b"0,1,5,2"),
    ("GNU.sparse.realsize", b"70000"),
];

fn archive(input: &mut Input) -> Vec<u8> {
    let mut archive = Archive::default();
    while let Some(choice) = input.byte() {
        let (name, link) = (NAMES[usize::from(input.u8() % 16)], NAMES[usize::from(input.u8() % 16)]);
        let mut header = Header::new(KINDS[usize::from(choice) % KINDS.len()], name);
        header.put(157, link);
        let contents = vec![input.u8(); usize::from(input.u8()) * usize::from(choice >> 4)];
        header.size(contents.len());
        archive = match choice % 16 {
            14 => archive.pax(&[PAX[usize::from(input.u8() % 8)], PAX[usize::from(input.u8() % 8)]]),
            // A header of which one field is anything.
            15 => {
                let field = (0..12).map(|_| input.u8()).collect::<Vec<u8>>();
                let at = usize::from(input.u8()) * 2 % 500;
                archive.entry(header.put(at, &field), &contents)
            }
            _ => archive.entry(&header, &contents),
        };
    }
    archive.bytes()
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let bytes = if choice & 1 == 0 { archive(&mut Input::new(rest)) } else { rest.to_vec() };
    let build = || {
        let (image, spool) = (Cursor::new(Vec::new()), Cursor::new(Vec::new()));
        to_erofs(&bytes[..], None, &LIMITS, image, spool).ok()
    };
    let Some((image, digest)) = build() else { return };
    let files = read::read(image.get_ref()).expect("what is written can be read");
    let contents: BTreeMap<u64, usize> = files
        .values()
        .filter(|file| file.mode & 0o170_000 == FILE)
        .map(|file| (file.node, file.contents.len()))
        .collect();
    assert!(contents.values().sum::<usize>() as u64 <= LIMITS.bytes);
    assert!(files.keys().all(|name| !name.split(|byte| *byte == b'/').any(|part| part == b"..")));
    let again = build().expect("once it could be read");
    assert!(again.1 == digest && again.0 == image, "the same layer gives the same bytes");
});
