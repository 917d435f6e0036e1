//! Attributes, extended ones among them.

use super::*;

const MODE: u32 = 1 << 0;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const FH: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const KILL_SUIDGID: u32 = 1 << 11;

/// The arguments of SETATTR.
#[derive(Default)]
struct Change {
    valid: u32,
    handle: u64,
    size: u64,
    access: u64,
    modification: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

fn setattr(guest: &mut Guest, node: u64, change: &Change) -> Result<Entry, Errno> {
    let answer = guest.call(opcode::SETATTR, node, |args| {
        args.u32(change.valid).u32(0).u64(change.handle).u64(change.size).u64(0);
        args.u64(change.access).u64(change.modification).u64(0).u32(1).u32(2).u32(3);
        args.u32(change.mode).u32(0).u32(change.uid).u32(change.gid).u32(0)
    })?;
    Ok(attributes(node, &mut Fields::new(&answer[16..])))
}

#[test]
fn mode_size_and_times_are_set() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    let change = Change {
        valid: MODE | SIZE | ATIME | MTIME,
        size: 12345,
        access: 1_000_000,
        modification: 2_000_000,
        mode: 0o100_640,
        ..Change::default()
    };
    let set = setattr(&mut guest, file.node, &change).unwrap();
    assert_eq!((set.mode & 0o7777, set.size), (0o640, 12345));
    let host = fs::metadata(guest.path("f")).unwrap();
    assert_eq!((host.atime(), host.atime_nsec()), (1_000_000, 1));
    assert_eq!((host.mtime(), host.mtime_nsec()), (2_000_000, 2));

    // By an open file, whatever the permissions say by then; and now.
    let change = Change { valid: SIZE | FH | ATIME | ATIME_NOW, handle, size: 7, ..Change::default() };
    assert_eq!(setattr(&mut guest, file.node, &change).unwrap().size, 7);
    assert!(fs::metadata(guest.path("f")).unwrap().atime() > 1_000_000);
    let forged = Change { handle: 99, ..change };
    assert_eq!(setattr(&mut guest, file.node, &forged), Err(Errno::EBADF));
}

#[test]
fn owners_are_set_and_links_are_not_followed() {
    if !is_root() {
        return;
    }
    let mut guest = Guest::new();
    let outside = TempDir::new().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "kept").unwrap();
    let link = guest.symlink(ROOT, "l", target.to_str().unwrap()).unwrap();
    let change = Change { valid: UID | GID | ATIME | MTIME, uid: 5, gid: 6, ..Change::default() };
    let set = setattr(&mut guest, link.node, &change).unwrap();
    assert_eq!((set.uid, set.gid), (5, 6));
    let host = fs::metadata(&target).unwrap();
    assert_eq!((host.uid(), host.gid()), (0, 0));
    assert_ne!(host.mtime(), 0);
    let mode = Change { valid: MODE, mode: 0o777, ..Change::default() };
    assert_eq!(setattr(&mut guest, link.node, &mode), Err(Errno::EOPNOTSUPP));
    let size = Change { valid: SIZE, ..Change::default() };
    assert_eq!(setattr(&mut guest, link.node, &size), Err(Errno::ELOOP));
    assert_eq!(fs::read(&target).unwrap(), b"kept");

    // Ownership takes set-id bits away.
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o4755).unwrap();
    assert_eq!(setattr(&mut guest, file.node, &change).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn set_id_bits_are_taken_away_when_a_truncation_says_so() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o4755).unwrap();
    let change = Change { valid: SIZE | KILL_SUIDGID, size: 1, ..Change::default() };
    assert_eq!(setattr(&mut guest, file.node, &change).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn the_file_system_tells_its_size() {
    let mut guest = Guest::new();
    let answer = guest.call(opcode::STATFS, ROOT, |args| args).unwrap();
    assert_eq!(answer.len(), 80);
    let mut fields = Fields::new(&answer);
    let (blocks, free) = (fields.u64().unwrap(), fields.u64().unwrap());
    assert!(blocks > 0 && free <= blocks);
}

fn set(guest: &mut Guest, node: u64, name: &str, value: &[u8], flags: u32) -> Result<(), Errno> {
    let size = u32::try_from(value.len()).unwrap();
    let set = guest.call(opcode::SETXATTR, node, |args| {
        args.u32(size).u32(flags).u32(1).u32(0).put(&text(name)).put(value)
    });
    set.map(drop)
}

fn get(guest: &mut Guest, node: u64, name: &str, size: u32) -> Result<Vec<u8>, Errno> {
    guest.call(opcode::GETXATTR, node, |args| args.u32(size).u32(0).put(&text(name)))
}

#[test]
fn extended_attributes_are_kept_by_the_host() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    match set(&mut guest, file.node, "user.a", b"value", 0) {
        Err(Errno::EOPNOTSUPP) => return println!("\nrvm-tests: cannot run: no extended attributes here"),
        set => set.unwrap(),
    }
    assert_eq!(get(&mut guest, file.node, "user.a", 100).unwrap(), b"value");
    assert_eq!(get(&mut guest, file.node, "user.a", 0).unwrap(), [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(get(&mut guest, file.node, "user.a", 4), Err(Errno::ERANGE));
    assert_eq!(get(&mut guest, file.node, "user.b", 4), Err(Errno::ENODATA));
    assert_eq!(
        set(&mut guest, file.node, "user.a", b"", libc::XATTR_CREATE.cast_unsigned()),
        Err(Errno::EEXIST)
    );
    let large = vec![7; 2000];
    set(&mut guest, file.node, "user.large", &large, 0).unwrap();
    assert_eq!(get(&mut guest, file.node, "user.large", 65536).unwrap(), large);
    let names = guest.call(opcode::LISTXATTR, file.node, |args| args.u32(1000).u32(0)).unwrap();
    let mut names: Vec<_> =
        names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).collect();
    names.sort();
    assert_eq!(names, [b"user.a".as_slice(), b"user.large"]);
    guest.call(opcode::REMOVEXATTR, file.node, |args| args.put(&text("user.a"))).unwrap();
    assert_eq!(get(&mut guest, file.node, "user.a", 100), Err(Errno::ENODATA));
}

#[test]
fn labels_of_the_hosts_security_modules_are_not_the_guests_to_set() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    for name in ["security.selinux", "security.ima", "security.capability.x", "system.other", "", "x"] {
        assert_eq!(set(&mut guest, file.node, name, b"x", 0), Err(Errno::EOPNOTSUPP), "{name}");
        let removed = guest.call(opcode::REMOVEXATTR, file.node, |args| args.put(&text(name)));
        assert_eq!(removed, Err(Errno::EOPNOTSUPP), "{name}");
    }
}

#[test]
fn attributes_of_links_and_pipes_are_their_own() {
    let mut guest = Guest::new();
    let outside = TempDir::new().unwrap();
    let link = guest.symlink(ROOT, "l", outside.path().to_str().unwrap()).unwrap();
    nix::unistd::mkfifo(&guest.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = guest.lookup(ROOT, "pipe").unwrap();
    for node in [link.node, pipe.node] {
        // user.* is for files and directories only.
        set(&mut guest, node, "user.a", b"x", 0).unwrap_err();
        if is_root() && set(&mut guest, node, "trusted.a", b"x", 0) != Err(Errno::EOPNOTSUPP) {
            assert_eq!(get(&mut guest, node, "trusted.a", 9).unwrap(), b"x");
        }
        assert_eq!(get(&mut guest, node, "system.posix_acl_access", 9), Err(Errno::ENODATA));
    }
}
