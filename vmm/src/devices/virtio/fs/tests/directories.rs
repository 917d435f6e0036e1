//! Listing directories.

use std::collections::BTreeMap;

use super::*;

const ENTRY: usize = 128;

/// An entry as it is listed.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    node: u64,
    inode: u64,
    kind: u32,
}

fn opendir(guest: &mut Guest, node: u64) -> u64 {
    let answer = guest.call(opcode::OPENDIR, node, |args| args.zeroes(8)).unwrap();
    Fields::new(&answer).u64().unwrap()
}

/// Lists from `offset` on, once; gives the entries, and where the next ones are.
fn list_once(
    guest: &mut Guest,
    (node, handle): (u64, u64),
    offset: u64,
    size: u32,
    plus: bool,
) -> Result<(Vec<(String, Listed)>, u64), Errno> {
    let opcode = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
    let answer = guest.call(opcode, node, |args| args.u64(handle).u64(offset).u32(size).zeroes(20))?;
    assert!(answer.len() <= size as usize);
    let (mut rest, mut next, mut entries) = (answer.as_slice(), offset, Vec::new());
    while !rest.is_empty() {
        let node = if plus { entry(rest).node } else { 0 };
        let mut fields = Fields::new(if plus { &rest[ENTRY..] } else { rest });
        let inode = fields.u64().unwrap();
        next = fields.u64().unwrap();
        let (length, kind) = (fields.u32().unwrap() as usize, fields.u32().unwrap());
        let name = String::from_utf8(fields.bytes(length).unwrap().to_vec()).unwrap();
        entries.push((name, Listed { node, inode, kind }));
        let all = (if plus { ENTRY } else { 0 }) + (24 + length).next_multiple_of(8);
        rest = &rest[all..];
    }
    Ok((entries, next))
}

fn list(guest: &mut Guest, node: u64, size: u32, plus: bool) -> BTreeMap<String, Listed> {
    let handle = opendir(guest, node);
    let (mut all, mut offset) = (BTreeMap::new(), 0);
    loop {
        let (entries, next) = list_once(guest, (node, handle), offset, size, plus).unwrap();
        if entries.is_empty() {
            return all;
        }
        for (name, listed) in entries {
            assert_eq!(all.insert(name, listed), None, "an entry is listed once");
        }
        offset = next;
    }
}

#[test]
fn every_entry_is_listed_once_in_any_pieces() {
    let mut guest = Guest::new();
    for index in 0..300 {
        fs::write(guest.path(&format!("file-{index}-{}", "x".repeat(index % 200))), "").unwrap();
    }
    symlink("x", guest.path("link")).unwrap();
    for (size, plus) in
        [(512, false), (4096, false), (1 << 20, false), (512, true), (4096, true), (1 << 20, true)]
    {
        let listed = list(&mut guest, ROOT, size, plus);
        assert_eq!(listed.len(), 303, "{size} {plus}");
        assert_eq!(listed["link"].kind, u32::from(libc::DT_LNK));
        let metadata = fs::symlink_metadata(guest.path("link")).unwrap();
        assert_eq!(listed["link"].inode, metadata.ino());
        assert_eq!(listed["link"].node != 0, plus);
        assert_eq!((listed["."].node, listed[".."].node), (0, 0));
    }
}

#[test]
fn what_is_above_the_shared_directory_is_not_told() {
    let mut guest = Guest::new();
    let inner = guest.mkdir(ROOT, "inner").unwrap();
    let (root, above) = (guest.getattr(ROOT).unwrap().inode, fs::metadata(guest.path("..")).unwrap().ino());
    for plus in [false, true] {
        let listed = list(&mut guest, ROOT, 4096, plus);
        assert_eq!(listed[".."].inode, root);
        assert_ne!(listed[".."].inode, above);
        assert_eq!(list(&mut guest, inner.node, 4096, plus)[".."].inode, root);
    }
}

#[test]
fn listed_nodes_count_as_lookups() {
    let mut guest = Guest::new();
    fs::write(guest.path("f"), "12345").unwrap();
    let node = list(&mut guest, ROOT, 4096, true)["f"].node;
    assert_eq!(guest.getattr(node).unwrap().size, 5);
    assert_eq!(guest.lookup(ROOT, "f").unwrap().node, node);
    guest.forget(node, 1);
    guest.getattr(node).unwrap();
    guest.forget(node, 1);
    assert_eq!(guest.getattr(node), Err(Errno::ESTALE));
}

#[test]
fn a_listing_goes_on_anywhere_and_only_in_what_is_open() {
    let mut guest = Guest::new();
    for index in 0..50 {
        fs::write(guest.path(&format!("{index}")), "").unwrap();
    }
    let handle = opendir(&mut guest, ROOT);
    let (first, next) = list_once(&mut guest, (ROOT, handle), 0, 600, false).unwrap();
    let (second, _) = list_once(&mut guest, (ROOT, handle), next, 600, false).unwrap();
    assert_eq!(
        list_once(&mut guest, (ROOT, handle), 0, 600, false).unwrap().0,
        first,
        "from the start again"
    );
    assert_eq!(list_once(&mut guest, (ROOT, handle), next, 600, false).unwrap().0, second);
    assert_eq!(list_once(&mut guest, (ROOT, handle), 0, 10, false), Err(Errno::EINVAL), "no room for one");
    assert_eq!(list_once(&mut guest, (ROOT, handle + 1), 0, 600, false), Err(Errno::EBADF));
    let (file, file_handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    assert_eq!(list_once(&mut guest, (file.node, file_handle), 0, 600, false), Err(Errno::ENOTDIR));
    assert_eq!(guest.call(opcode::OPENDIR, file.node, |args| args.zeroes(8)), Err(Errno::ENOTDIR));
    assert_eq!(guest.open(ROOT, RDONLY), Err(Errno::EISDIR));
    guest.call(opcode::RELEASEDIR, ROOT, |args| args.u64(handle).zeroes(16)).unwrap();
    assert_eq!(list_once(&mut guest, (ROOT, handle), 0, 600, false), Err(Errno::EBADF));
}
