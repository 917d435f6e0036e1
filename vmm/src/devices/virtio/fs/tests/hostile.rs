//! What no driver asks for, and what a guest tries to get out by.

use std::time::Duration;

use super::*;

/// A directory beside the shared one, with a file that the guest must not reach.
struct Outside {
    directory: TempDir,
    secret: PathBuf,
}

impl Outside {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        Self { directory, secret }
    }

    fn is_as_it_was(&self) {
        assert_eq!(fs::read(&self.secret).unwrap(), b"secret");
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 1);
    }
}

/// Names that are none.
const PATHS: [&str; 8] = ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a/"];

#[test]
fn names_that_are_paths_are_refused_by_every_operation() {
    let mut guest = Guest::new();
    guest.mkdir(ROOT, "a").unwrap();
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    for name in PATHS {
        assert_eq!(guest.lookup(ROOT, name), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.create(ROOT, name, RDWR, 0o644).err(), Some(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.mkdir(ROOT, name), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.symlink(ROOT, name, "x"), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.remove(opcode::UNLINK, ROOT, name), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.remove(opcode::RMDIR, ROOT, name), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.rename((ROOT, name), (ROOT, "x"), 0), Err(Errno::EINVAL), "{name:?}");
        assert_eq!(guest.rename((ROOT, "f"), (ROOT, name), 0), Err(Errno::EINVAL), "{name:?}");
        let linked = guest.call(opcode::LINK, ROOT, |args| args.u64(file.node).put(&text(name)));
        assert_eq!(linked, Err(Errno::EINVAL), "{name:?}");
        let made = guest.call(opcode::MKNOD, ROOT, |args| args.u32(0o644).zeroes(12).put(&text(name)));
        assert_eq!(made, Err(Errno::EINVAL), "{name:?}");
    }
    assert_eq!(guest.lookup(ROOT, &"n".repeat(256)), Err(Errno::ENAMETOOLONG));
    assert_eq!(guest.call(opcode::LOOKUP, ROOT, |args| args.put(b"endless")), Err(Errno::EINVAL));
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 2);
}

#[test]
fn links_out_of_the_directory_are_seen_and_not_followed() {
    let (mut guest, outside) = (Guest::new(), Outside::new());
    let directory = outside.directory.path().to_str().unwrap();
    let to_file = guest.symlink(ROOT, "file", outside.secret.to_str().unwrap()).unwrap();
    let to_directory = guest.symlink(ROOT, "directory", directory).unwrap();
    let upwards = guest.symlink(ROOT, "up", "..").unwrap();
    for link in [to_file, to_directory, upwards] {
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.open(link.node, RDWR), Err(Errno::ELOOP));
        assert_eq!(guest.lookup(link.node, "secret"), Err(Errno::ENOTDIR));
        assert_eq!(guest.mkdir(link.node, "x"), Err(Errno::ENOTDIR));
        assert_eq!(guest.create(link.node, "x", RDWR, 0o644).err(), Some(Errno::ENOTDIR));
        assert_eq!(guest.remove(opcode::UNLINK, link.node, "secret"), Err(Errno::ENOTDIR));
        assert_eq!(guest.rename((link.node, "secret"), (ROOT, "x"), 0), Err(Errno::ENOTDIR));
        assert_eq!(guest.call(opcode::OPENDIR, link.node, |args| args.zeroes(8)), Err(Errno::ENOTDIR));
    }
    // Creating or emptying through it.
    for flags in [RDWR, RDWR | libc::O_TRUNC as u32] {
        assert_eq!(guest.create(ROOT, "file", flags, 0o644).err(), Some(Errno::ELOOP));
    }
    let dangling = format!("{directory}/new");
    guest.symlink(ROOT, "dangling", &dangling).unwrap();
    assert_eq!(guest.create(ROOT, "dangling", RDWR, 0o644).err(), Some(Errno::ELOOP));
    outside.is_as_it_was();
}

#[test]
fn a_directory_that_becomes_a_link_is_still_the_directory() {
    let (mut guest, outside) = (Guest::new(), Outside::new());
    let directory = guest.mkdir(ROOT, "d").unwrap();
    guest.rename((ROOT, "d"), (ROOT, "moved"), 0).unwrap();
    guest.symlink(ROOT, "d", outside.directory.path().to_str().unwrap()).unwrap();
    assert_eq!(guest.lookup(directory.node, "secret"), Err(Errno::ENOENT));
    guest.create(directory.node, "f", RDWR, 0o644).unwrap();
    assert!(guest.path("moved/f").exists());
    outside.is_as_it_was();
}

#[test]
fn pipes_sockets_and_devices_of_the_host_are_never_opened() {
    let mut guest = Guest::new();
    nix::unistd::mkfifo(&guest.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(guest.path("socket")).unwrap();
    let mut names = vec!["pipe", "socket"];
    if is_root() {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        // A sandbox of ours may not let even root make one.
        if mknod(&guest.path("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).is_ok() {
            names.push("null");
        }
    }
    for name in names {
        let special = guest.lookup(ROOT, name).unwrap();
        // Opening a pipe that nobody reads would wait for ever.
        for flags in [RDONLY, libc::O_WRONLY as u32, RDWR] {
            assert_eq!(guest.open(special.node, flags), Err(Errno::ENXIO), "{name}");
            assert_eq!(guest.create(ROOT, name, flags, 0o644).err(), Some(Errno::ENXIO), "{name}");
        }
    }
}

#[test]
fn numbers_that_were_never_given_find_nothing() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    for node in [0, file.node + 1, u64::MAX] {
        assert_eq!(guest.getattr(node), Err(Errno::ESTALE));
        assert_eq!(guest.lookup(node, "f"), Err(Errno::ESTALE));
        assert_eq!(guest.open(node, RDONLY), Err(Errno::ESTALE));
        assert_eq!(guest.rename((ROOT, "f"), (node, "g"), 0), Err(Errno::ESTALE));
        assert_eq!(guest.read(node, handle, 0, 1), Err(Errno::EBADF), "another node's handle");
    }
    for handle in [0, handle + 1, u64::MAX] {
        assert_eq!(guest.read(file.node, handle, 0, 1), Err(Errno::EBADF));
        assert_eq!(guest.write(file.node, handle, 0, b"x"), Err(Errno::EBADF));
        assert_eq!(guest.release(file.node, handle), Err(Errno::EBADF));
    }
}

#[test]
fn forgetting_more_than_was_told_forgets_once_and_never_the_directory_itself() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    guest.forget(ROOT, u64::MAX);
    guest.getattr(ROOT).unwrap();
    guest.forget(file.node, u64::MAX);
    assert_eq!(guest.getattr(file.node), Err(Errno::ESTALE));
    guest.forget(file.node, 1);
    let again = guest.lookup(ROOT, "f").unwrap();
    assert!(again.node > file.node, "a number is never used again");
    // A batch that promises more than it holds.
    let at = guest.place(opcode::BATCH_FORGET, 0, |args| args.u32(u32::MAX).u32(0).u64(again.node).u64(1));
    assert_eq!(guest.driver.request(HIGH_PRIORITY, &[Part::Readable(at, 64)]), 0);
    assert_eq!(guest.getattr(again.node), Err(Errno::ESTALE));
}

#[test]
fn sizes_and_offsets_at_every_edge_are_refused_or_cut() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    guest.write(file.node, handle, 0, b"abc").unwrap();
    assert_eq!(guest.read(file.node, handle, 0, u32::MAX).unwrap(), b"abc");
    assert_eq!(guest.read(file.node, handle, 0, 0), Ok(vec![]));
    for offset in [1 << 63, u64::MAX] {
        assert_eq!(guest.read(file.node, handle, offset, 10), Err(Errno::EINVAL));
        assert_eq!(guest.write(file.node, handle, offset, b"x"), Err(Errno::EINVAL));
    }
    let mut lie = |size: u32| {
        guest.call(opcode::WRITE, file.node, |args| {
            args.u64(handle).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0).put(b"xyz")
        })
    };
    for size in [4, (1 << 20) + 1, u32::MAX] {
        assert_eq!(lie(size), Err(Errno::EINVAL), "{size} bytes that are not there");
    }
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"abc");
    let set = guest.call(opcode::SETXATTR, file.node, |args| {
        args.u32(u32::MAX).u32(0).u64(0).put(&text("user.x")).put(b"x")
    });
    assert_eq!(set, Err(Errno::EINVAL));
    let got = guest.call(opcode::LISTXATTR, file.node, |args| args.u32(u32::MAX).u32(0));
    assert!(got.unwrap().len() < 65536);
}

#[test]
fn requests_that_are_cut_short_or_lie_about_their_length_are_refused() {
    let mut guest = Guest::new();
    for opcode in
        (1..52).filter(|opcode| ![38, 7, 19, 31, 32, 33, 34, 36, 37, 39, 40, 41, 48, 49].contains(opcode))
    {
        for length in 0..24 {
            let answer = guest.call(opcode, ROOT, |args| args.zeroes(length));
            // Some need no arguments, and some are whole with so many zeroes.
            let whole = [
                opcode::FORGET,
                opcode::BATCH_FORGET,
                opcode::GETATTR,
                opcode::STATFS,
                opcode::SYNCFS,
                opcode::LISTXATTR,
                opcode::OPENDIR,
            ];
            assert!(answer.is_err() || whole.contains(&opcode), "{opcode} with {length} bytes: {answer:?}");
        }
    }
    assert_eq!(guest.send(39, opcode::GETATTR, ROOT, &[0; 16]), Err(Errno::EINVAL));
    assert_eq!(guest.send(57, opcode::GETATTR, ROOT, &[0; 16]), Err(Errno::EINVAL), "more than there is");
    assert_eq!(guest.send(u32::MAX, opcode::GETATTR, ROOT, &[0; 16]), Err(Errno::E2BIG));
    guest.init(7, 41, OFFERED).unwrap();
    guest.getattr(ROOT).unwrap();

    // A header that is not all there is answered, without a number; without room for an answer nothing is done.
    let (request, answer) = (guest.driver.place(&[0; 39]), guest.driver.allocate(16));
    let parts = [Part::Readable(request, 39), Part::Writable(answer, 16)];
    assert_eq!(guest.driver.request(REQUESTS, &parts), 16);
    assert_eq!(guest.driver.bytes(answer + 4, 4), (-(Errno::EINVAL as i32)).to_le_bytes());
    let request = guest.place(opcode::MKDIR, ROOT, |args| args.u32(0o755).u32(0).put(b"d\0"));
    for parts in
        [&[Part::Readable(request, 50)][..], &[Part::Readable(request, 50), Part::Writable(answer, 15)]]
    {
        assert_eq!(guest.driver.request(REQUESTS, parts), 0);
    }
    assert!(!guest.path("d").exists());
}

#[test]
fn an_answer_that_does_not_fit_is_an_error() {
    let mut guest = Guest::new();
    let request = guest.place(opcode::GETATTR, ROOT, |args| args.zeroes(16));
    let answer = guest.driver.allocate(100);
    let parts = [Part::Readable(request, 56), Part::Writable(answer, 100)];
    assert_eq!(guest.driver.request(REQUESTS, &parts), 16);
    assert_eq!(guest.driver.bytes(answer + 4, 4), (-(Errno::EIO as i32)).to_le_bytes());
    let beyond = [Part::Readable(request, 56), Part::Writable(MEMORY_SIZE as u64 - 8, 200)];
    assert_eq!(guest.driver.request(REQUESTS, &beyond), 0);
}

#[test]
fn chains_that_are_none_ask_for_a_reset() {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    let mut guest = Guest::new();
    for chain in [
        [(0x10_0000, 40, NEXT, 1), (0x10_0100, 16, WRITE | NEXT, 1)],
        [(0x10_0000, 40, NEXT | WRITE, 1), (0x10_0100, 16, 0, 0)],
        [(0x10_0000, 40, NEXT, 1), (0x10_0100, 16, WRITE | NEXT, 999)],
    ] {
        for (index, fields) in (0..).zip(chain) {
            guest.driver.set_descriptor(REQUESTS, index, fields);
        }
        guest.driver.repost(REQUESTS, 0);
        guest.driver.kick(REQUESTS);
        guest.driver.wait_needs_reset();
        guest.driver.initialise(u64::MAX);
    }
    guest.init(7, 41, OFFERED).unwrap();
}

#[test]
fn a_guest_can_keep_only_so_much() {
    let mut guest = Guest::with(|_| (), 128);
    for index in 0..200 {
        fs::write(guest.path(&index.to_string()), "").unwrap();
    }
    let known: Vec<_> = (0..200).map_while(|index| guest.lookup(ROOT, &index.to_string()).ok()).collect();
    assert_eq!(known.len(), 96);
    assert_eq!(guest.lookup(ROOT, "199"), Err(Errno::ENFILE));
    guest.lookup(ROOT, "0").unwrap();
    assert_eq!(guest.mkdir(ROOT, "d"), Err(Errno::ENFILE));
    assert_eq!(guest.create(ROOT, "new", RDWR, 0o644).err(), Some(Errno::ENFILE));
    assert!(!guest.path("d").exists() && !guest.path("new").exists(), "what cannot be told is not made");
    let open: Vec<_> = (0..200).map_while(|_| guest.open(known[1].node, RDONLY).ok()).collect();
    assert_eq!(open.len(), 32);
    assert_eq!(guest.open(known[1].node, RDONLY), Err(Errno::ENFILE));
    guest.release(known[1].node, open[0]).unwrap();
    guest.open(known[1].node, RDONLY).unwrap();
    guest.forget(known[2].node, 1);
    guest.lookup(ROOT, "199").unwrap();
}

#[test]
fn a_read_only_share_is_read_only_whatever_is_asked() {
    let mut guest = Guest::with(|share| share.read_only = true, 1024);
    fs::write(guest.path("f"), "kept").unwrap();
    let before = fs::metadata(guest.path("f")).unwrap();
    let file = guest.lookup(ROOT, "f").unwrap();
    let handle = guest.open(file.node, RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 9).unwrap(), b"kept");
    for flags in [RDWR, libc::O_WRONLY as u32, libc::O_TRUNC as u32, 3] {
        assert_eq!(guest.open(file.node, flags), Err(Errno::EROFS), "{flags:o}");
        assert_eq!(guest.create(ROOT, "f", flags, 0o644).err(), Some(Errno::EROFS));
    }
    let changing = [
        opcode::SETATTR,
        opcode::SYMLINK,
        opcode::MKNOD,
        opcode::MKDIR,
        opcode::UNLINK,
        opcode::RMDIR,
        opcode::RENAME,
        opcode::LINK,
        opcode::WRITE,
        opcode::SETXATTR,
        opcode::REMOVEXATTR,
        opcode::CREATE,
        opcode::FALLOCATE,
        opcode::RENAME2,
        opcode::COPY_FILE_RANGE,
        opcode::TMPFILE,
    ];
    for opcode in changing {
        assert_eq!(guest.call(opcode, file.node, |args| args.zeroes(200)), Err(Errno::EROFS), "{opcode}");
    }
    guest.call(opcode::SYNCFS, ROOT, |args| args.zeroes(8)).unwrap();
    let after = fs::metadata(guest.path("f")).unwrap();
    assert_eq!((after.mode(), after.len(), after.ctime_nsec()), (before.mode(), 4, before.ctime_nsec()));
}

#[test]
fn a_stop_is_heard_while_a_guest_never_stops_asking() {
    let mut guest = Guest::new();
    let at = guest.place(opcode::GETATTR, ROOT, |args| args.zeroes(16));
    let answer = guest.driver.allocate(128);
    let parts = [Part::Readable(at, 56), Part::Writable(answer, 128)];
    for _ in 0..30 {
        guest.driver.submit(REQUESTS, &parts);
    }
    guest.driver.kick(REQUESTS);
    let began = std::time::Instant::now();
    guest.driver.transport.pause();
    assert!(began.elapsed() < Duration::from_secs(5));
    guest.driver.transport.resume();
    for _ in 0..30 {
        assert_eq!(guest.driver.wait_used(REQUESTS).1, 120);
    }
}
