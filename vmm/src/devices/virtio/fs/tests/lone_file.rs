//! A file that is shared alone.

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;
use rvm_config::SHARED_FILE;

use super::{Guest, RDONLY, RDWR, opcode, text};
use crate::devices::virtio::fs::wire::{Fields, ROOT};
use crate::devices::virtio::fs::{Fs, FsError};

/// A guest that a file is shared with; beside it is another, which is not.
fn guest(read_only: bool) -> Guest {
    let share = |share: &mut rvm_config::Share| {
        fs::write(share.path.join("shared"), "contents").unwrap();
        fs::write(share.path.join("secret"), "secret").unwrap();
        (share.path, share.file, share.read_only) = (share.path.join("shared"), true, read_only);
    };
    Guest::with(share, 1 << 12)
}

/// Names in the root, from `offset` on, into so many bytes.
fn list(guest: &mut Guest, offset: u64, size: u32) -> Vec<(String, u64)> {
    let answer = guest.call(opcode::READDIR, ROOT, |args| args.u64(0).u64(offset).u32(size).zeroes(20));
    let answer = answer.unwrap();
    let (mut fields, mut names) = (Fields::new(&answer), Vec::new());
    while let Ok(_inode) = fields.u64() {
        let (next, length) = (fields.u64().unwrap(), fields.u32().unwrap() as usize);
        fields.skip(4).unwrap();
        let name = fields.bytes(length).unwrap();
        names.push((String::from_utf8_lossy(name).into_owned(), next));
        fields.skip(length.next_multiple_of(8) - length).unwrap();
    }
    names
}

#[test]
fn it_is_alone_in_a_directory() {
    let mut guest = guest(false);
    let root = guest.getattr(ROOT).unwrap();
    assert_eq!(root.mode, libc::S_IFDIR | 0o555);
    let opened = guest.call(opcode::OPENDIR, ROOT, |args| args.u32(RDONLY).u32(0)).unwrap();
    assert_eq!(opened.len(), 16);
    let all = [(".", 1), ("..", 2), (SHARED_FILE, 3)].map(|(name, next)| (name.to_owned(), next));
    assert_eq!(list(&mut guest, 0, 4096), all);
    assert_eq!(list(&mut guest, 2, 4096), all[2..]);
    assert_eq!(list(&mut guest, 0, 64), all[..2]);
    assert_eq!(list(&mut guest, 3, 4096), []);
    assert_eq!(list(&mut guest, u64::MAX, 4096), []);
    let file = guest.lookup(ROOT, SHARED_FILE).unwrap();
    assert_ne!(file.node, ROOT);
    assert_eq!(guest.lookup(ROOT, SHARED_FILE).unwrap().node, file.node);
    for name in ["shared", "secret", "fil", "file2"] {
        assert_eq!(guest.lookup(ROOT, name), Err(Errno::ENOENT), "{name}");
    }
}

#[test]
fn it_is_read_and_written_as_any_other() {
    let mut guest = guest(false);
    let file = guest.lookup(ROOT, SHARED_FILE).unwrap();
    let handle = guest.open(file.node, RDWR).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 100).unwrap(), b"contents");
    assert_eq!(guest.write(file.node, handle, 3, b"TENT"), Ok(4));
    guest.release(file.node, handle).unwrap();
    assert_eq!(fs::read_to_string(guest.path("shared")).unwrap(), "conTENTs");
    guest.call(opcode::SYNCFS, ROOT, |args| args.u64(0)).unwrap();
    guest.call(opcode::STATFS, ROOT, |args| args).unwrap();
    // The file that is shared, whatever gets its name later.
    fs::rename(guest.path("secret"), guest.path("shared")).unwrap();
    let handle = guest.open(file.node, RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 100).unwrap(), b"conTENTs");
}

#[test]
fn what_is_beside_it_is_out_of_reach() {
    let mut guest = guest(false);
    let file = guest.lookup(ROOT, SHARED_FILE).unwrap().node;
    for parent in [ROOT, file] {
        let refused = [
            guest.lookup(parent, "secret").map(drop),
            guest.create(parent, "new", RDWR, 0o644).map(drop),
            guest.mkdir(parent, "new").map(drop),
            guest.symlink(parent, "new", "secret").map(drop),
            guest.remove(opcode::UNLINK, parent, "secret"),
            guest.remove(opcode::UNLINK, parent, SHARED_FILE),
            guest.remove(opcode::RMDIR, parent, "secret"),
            guest.rename((parent, "secret"), (ROOT, "stolen"), 0),
            guest.rename((file, "secret"), (parent, "stolen"), 0),
            guest.rename((parent, "shared"), (parent, "secret"), libc::RENAME_EXCHANGE),
            guest.call(opcode::LINK, parent, |args| args.u64(file).put(&text("second"))).map(drop),
            guest.call(opcode::LINK, parent, |args| args.u64(ROOT).put(&text("second"))).map(drop),
            guest
                .call(opcode::MKNOD, parent, |args| args.u32(0o100_644).zeroes(12).put(&text("new")))
                .map(drop),
            guest
                .call(opcode::TMPFILE, parent, |args| args.u32(RDWR).u32(0o600).zeroes(8).put(b"\0"))
                .map(drop),
            guest.call(opcode::READDIRPLUS, parent, |args| args.u64(0).u64(0).u32(4096).zeroes(20)).map(drop),
        ];
        for (number, result) in refused.into_iter().enumerate() {
            let errno = result.expect_err(&format!("request {number} to node {parent}"));
            let expected = [Errno::EPERM, Errno::ENOENT, Errno::ENOTDIR, Errno::EBADF, Errno::EROFS];
            assert!(expected.contains(&errno), "request {number} to node {parent}: {errno}");
        }
    }
    // Nor is the file changed by way of its directory.
    assert_eq!(guest.open(ROOT, RDWR), Err(Errno::EPERM));
    assert_eq!(guest.call(opcode::SETATTR, ROOT, |args| args.u32(1).zeroes(84)), Err(Errno::EPERM));
    let xattr = guest.call(opcode::SETXATTR, ROOT, |args| args.u32(1).zeroes(12).put(b"user.x\0v"));
    assert_eq!(xattr, Err(Errno::EPERM));
    let mut names: Vec<_> =
        fs::read_dir(guest.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["secret", "shared"]);
    assert_eq!(fs::read(guest.path("secret")).unwrap(), b"secret");
}

#[test]
fn a_file_that_is_read_only_stays_as_it_is() {
    let mut guest = guest(true);
    let file = guest.lookup(ROOT, SHARED_FILE).unwrap();
    assert_eq!(guest.open(file.node, RDWR), Err(Errno::EROFS));
    let handle = guest.open(file.node, RDONLY).unwrap();
    assert_eq!(guest.write(file.node, handle, 0, b"x"), Err(Errno::EROFS));
    guest.call(opcode::SYNCFS, ROOT, |args| args.u64(0)).unwrap();
    assert_eq!(fs::read(guest.path("shared")).unwrap(), b"contents");
}

#[test]
fn only_a_regular_file_is_shared_as_one() {
    let guest = guest(false);
    symlink("shared", guest.path("link")).unwrap();
    symlink("/dev/null", guest.path("device")).unwrap();
    let open = |name: &str| {
        let share = format!("{},tag=t,file", guest.path(name).display());
        Fs::open(&share.parse().unwrap(), 1024).err()
    };
    assert!(open("link").is_none());
    assert!(matches!(open("device"), Some(FsError::NotAFile(_))));
    assert!(matches!(open(""), Some(FsError::NotAFile(_))));
    assert!(matches!(open("missing"), Some(FsError::Missing(_))));
}
