//! Making, linking, moving and removing.

use super::*;

const NOBODY: Caller = Caller { uid: 65534, gid: 65534 };

#[test]
fn a_directory_a_file_and_a_link_are_made_on_the_host() {
    let mut guest = Guest::new();
    let directory = guest.mkdir(ROOT, "d").unwrap();
    let (file, _) = guest.create(directory.node, "f", RDWR, 0o666).unwrap();
    let link = guest.symlink(directory.node, "l", "../somewhere").unwrap();
    assert_eq!(directory.mode, libc::S_IFDIR | 0o755);
    assert_eq!(file.mode, libc::S_IFREG | 0o644, "less what the mask takes");
    assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(fs::metadata(guest.path("d/f")).unwrap().ino(), file.inode);
    assert_eq!(fs::read_link(guest.path("d/l")).unwrap().to_str(), Some("../somewhere"));
    assert_eq!(guest.call(opcode::READLINK, link.node, |args| args).unwrap(), b"../somewhere");
    assert_eq!(guest.call(opcode::READLINK, file.node, |args| args), Err(Errno::EINVAL));
    assert_eq!(guest.mkdir(ROOT, "d"), Err(Errno::EEXIST));
}

#[test]
fn what_is_made_belongs_to_whom_it_is_made_for() {
    if !is_root() {
        return;
    }
    let mut guest = Guest::new();
    guest.caller = NOBODY;
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o4755).unwrap();
    let directory = guest.mkdir(ROOT, "d").unwrap();
    let link = guest.symlink(ROOT, "l", "x").unwrap();
    for entry in [file, directory, link] {
        assert_eq!((entry.uid, entry.gid), (NOBODY.uid, NOBODY.gid));
    }
    assert_eq!(file.mode & 0o7777, 0o4755, "set-id bits are given with the file");
    // A directory that hands its group on.
    fs::create_dir(guest.path("shared")).unwrap();
    nix::unistd::chown(&guest.path("shared"), None, Some(7.into())).unwrap();
    fs::set_permissions(guest.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    let shared = guest.lookup(ROOT, "shared").unwrap();
    let (file, _) = guest.create(shared.node, "f", RDWR, 0o644).unwrap();
    let directory = guest.mkdir(shared.node, "d").unwrap();
    assert_eq!((file.uid, file.gid), (NOBODY.uid, 7));
    assert_eq!((directory.uid, directory.gid, directory.mode & 0o7000), (NOBODY.uid, 7, 0o2000));
}

#[test]
fn pipes_sockets_and_whiteouts_are_made_and_devices_are_not() {
    let mut guest = Guest::new();
    let mut mknod = |kind: u32, device: u32, name: &str| {
        let answer = guest.call(opcode::MKNOD, ROOT, |args| {
            args.u32(kind | 0o600).u32(device).u32(0).u32(0).put(&text(name))
        });
        answer.map(|answer| entry(&answer).mode & libc::S_IFMT)
    };
    assert_eq!(mknod(libc::S_IFIFO, 0, "pipe"), Ok(libc::S_IFIFO));
    assert_eq!(mknod(libc::S_IFSOCK, 0, "socket"), Ok(libc::S_IFSOCK));
    assert_eq!(mknod(libc::S_IFREG, 0, "file"), Ok(libc::S_IFREG));
    assert_eq!(mknod(libc::S_IFCHR, 0, "whiteout"), Ok(libc::S_IFCHR));
    for (kind, device) in
        [(libc::S_IFCHR, 0x103), (libc::S_IFBLK, 0), (libc::S_IFBLK, 0x800), (libc::S_IFDIR, 0)]
    {
        assert_eq!(mknod(kind, device, "device"), Err(Errno::EPERM), "{kind:o} {device:x}");
    }
    assert_eq!(fs::metadata(guest.path("whiteout")).unwrap().rdev(), 0);
    assert!(!guest.path("device").exists());
}

#[test]
fn names_of_one_file_are_one_node() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "a", RDWR, 0o644).unwrap();
    let link = |guest: &mut Guest, node: u64, name: &str| {
        let answer = guest.call(opcode::LINK, ROOT, |args| args.u64(node).put(&text(name)));
        answer.map(|answer| entry(&answer))
    };
    let linked = link(&mut guest, file.node, "b").unwrap();
    assert_eq!((linked.node, linked.links), (file.node, 2));
    assert_eq!(guest.lookup(ROOT, "b").unwrap().node, file.node);
    assert_eq!(link(&mut guest, file.node, "a"), Err(Errno::EEXIST));
    let symlink = guest.symlink(ROOT, "l", "/etc/passwd").unwrap();
    assert_eq!(link(&mut guest, symlink.node, "m").unwrap().node, symlink.node);
    assert_eq!(
        fs::read_link(guest.path("m")).unwrap().to_str(),
        Some("/etc/passwd"),
        "the link itself is linked"
    );
    let directory = guest.mkdir(ROOT, "d").unwrap();
    assert_eq!(link(&mut guest, directory.node, "e"), Err(Errno::EPERM));
}

#[test]
fn files_move_and_keep_their_node() {
    let mut guest = Guest::new();
    let directory = guest.mkdir(ROOT, "d").unwrap();
    let (a, _) = guest.create(ROOT, "a", RDWR, 0o644).unwrap();
    let (b, _) = guest.create(ROOT, "b", RDWR, 0o644).unwrap();
    guest.rename((ROOT, "a"), (directory.node, "c"), 0).unwrap();
    assert_eq!(guest.lookup(ROOT, "a"), Err(Errno::ENOENT));
    assert_eq!(guest.lookup(directory.node, "c").unwrap().node, a.node);
    let (c, b_name) = ((directory.node, "c"), (ROOT, "b"));
    assert_eq!(guest.rename(b_name, c, libc::RENAME_NOREPLACE), Err(Errno::EEXIST));
    guest.rename(b_name, c, libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(guest.lookup(ROOT, "b").unwrap().node, a.node);
    guest.rename(b_name, c, 0).unwrap();
    assert_eq!(guest.lookup(directory.node, "c").unwrap().node, a.node);
    assert_eq!(guest.getattr(b.node).unwrap().links, 0, "what was there is gone, and known still");
    assert_eq!(guest.rename(c, b_name, 0x80), Err(Errno::EINVAL));
    let names = [text("c"), text("z")].concat();
    guest.call(opcode::RENAME, directory.node, |args| args.u64(ROOT).put(&names)).unwrap();
    assert!(guest.path("z").exists());
}

#[test]
fn names_are_removed_as_what_they_are() {
    let mut guest = Guest::new();
    let directory = guest.mkdir(ROOT, "d").unwrap();
    guest.create(directory.node, "f", RDWR, 0o644).unwrap();
    assert_eq!(guest.remove(opcode::UNLINK, ROOT, "d"), Err(Errno::EISDIR));
    assert_eq!(guest.remove(opcode::RMDIR, ROOT, "d"), Err(Errno::ENOTEMPTY));
    assert_eq!(guest.remove(opcode::RMDIR, directory.node, "f"), Err(Errno::ENOTDIR));
    guest.remove(opcode::UNLINK, directory.node, "f").unwrap();
    guest.remove(opcode::RMDIR, ROOT, "d").unwrap();
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
}
