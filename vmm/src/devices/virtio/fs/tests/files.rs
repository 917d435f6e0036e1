//! Open files and their data.

use super::*;

const TRUNC: u32 = libc::O_TRUNC as u32;
const APPEND: u32 = libc::O_APPEND as u32;
const EXCL: u32 = libc::O_EXCL as u32;
const WRITE_CACHE: u32 = 1 << 0;
const KILL_SUIDGID: u32 = 1 << 2;

#[test]
fn what_the_guest_writes_is_in_the_hosts_file_and_back() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    assert_eq!(guest.write(file.node, handle, 5, &data), Ok(300_000));
    let stored = fs::read(guest.path("f")).unwrap();
    assert_eq!(stored[..5], [0; 5]);
    assert!(stored[5..] == data);
    assert!(guest.read(file.node, handle, 5, 1 << 20).unwrap() == data, "up to the end of the file");
    assert_eq!(guest.read(file.node, handle, 300_000, 100).unwrap(), data[299_995..]);
    assert_eq!(guest.read(file.node, handle, 400_000, 100), Ok(vec![]));
    assert_eq!(guest.getattr(file.node).unwrap().size, 300_005);
    let stats = &guest.stats;
    assert_eq!((stats.bytes_in.get(), stats.bytes_out.get(), stats.errors.get()), (300_005, 300_000, 0));
    guest.release(file.node, handle).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 1), Err(Errno::EBADF));
}

#[test]
fn data_may_be_cut_anywhere() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    let at = guest.place(opcode::WRITE, file.node, |args| {
        args.u64(handle).u64(0).u32(9).u32(0).u64(0).u32(0).u32(0).put(b"some data")
    });
    let answer = guest.driver.allocate(24);
    let parts = [
        Part::Readable(at, 3),
        Part::Readable(at + 3, 60),
        Part::Readable(at + 63, 21),
        Part::Readable(at + 84, 5),
        Part::Writable(answer, 1),
        Part::Writable(answer + 1, 23),
    ];
    assert_eq!(guest.driver.request(REQUESTS, &parts), 24);
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"some data");

    let at = guest.place(opcode::READ, file.node, |args| args.u64(handle).u64(5).u32(9).zeroes(20));
    let answer = guest.driver.allocate(64);
    let parts = [Part::Readable(at, 80), Part::Writable(answer, 18), Part::Writable(answer + 18, 40)];
    assert_eq!(guest.driver.request(REQUESTS, &parts), 20);
    assert_eq!(guest.driver.bytes(answer + 16, 4), b"data");
}

#[test]
fn a_file_is_created_opened_or_emptied_as_asked() {
    let mut guest = Guest::new();
    fs::write(guest.path("f"), "there").unwrap();
    assert_eq!(guest.create(ROOT, "f", RDWR | EXCL, 0o644).err(), Some(Errno::EEXIST));
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 9).unwrap(), b"there");
    guest.open(file.node, RDWR).unwrap();
    assert_eq!(guest.getattr(file.node).unwrap().size, 5);
    guest.open(file.node, RDWR | TRUNC).unwrap();
    assert_eq!(guest.getattr(file.node).unwrap().size, 0);
    fs::write(guest.path("f"), "there").unwrap();
    assert_eq!(guest.create(ROOT, "f", RDWR | TRUNC, 0o644).unwrap().0.size, 0);
    let read_only = guest.open(file.node, RDONLY).unwrap();
    assert_eq!(guest.write(file.node, read_only, 0, b"x"), Err(Errno::EBADF));
}

#[test]
fn appended_is_at_the_end_and_what_a_mapping_writes_is_not() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR | APPEND, 0o644).unwrap();
    guest.write_as(file.node, handle, 0, b"one", 0, APPEND).unwrap();
    fs::write(guest.path("f"), "host's").unwrap();
    guest.write_as(file.node, handle, 3, b"two", 0, APPEND).unwrap();
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"host'stwo");
    guest.write_as(file.node, handle, 0, b"HOST", WRITE_CACHE, APPEND).unwrap();
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"HOST'stwo");
}

#[test]
fn a_file_without_a_name_stays_while_it_is_open() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    guest.write(file.node, handle, 0, b"kept").unwrap();
    guest.remove(opcode::UNLINK, ROOT, "f").unwrap();
    let again = guest.open(file.node, RDWR).unwrap();
    assert_eq!(guest.read(file.node, again, 0, 9).unwrap(), b"kept");
    assert_eq!(guest.getattr(file.node).unwrap().links, 0);

    let answer =
        guest.call(opcode::TMPFILE, ROOT, |args| args.u32(RDWR).u32(0o600).u32(0).u32(0).put(&text("#1")));
    let answer = answer.unwrap();
    let (file, handle) = (entry(&answer), Fields::new(&answer[128..]).u64().unwrap());
    assert_eq!(guest.write(file.node, handle, 0, b"unnamed"), Ok(7));
    guest.call(opcode::LINK, ROOT, |args| args.u64(file.node).put(&text("named"))).unwrap();
    assert_eq!(fs::read(guest.path("named")).unwrap(), b"unnamed");
}

#[test]
fn set_id_bits_are_taken_away_when_a_write_says_so() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o6755).unwrap();
    let mode = |guest: &mut Guest| guest.getattr(file.node).unwrap().mode & 0o7777;
    assert_eq!(mode(&mut guest), 0o6755);
    if is_root() {
        guest.write(file.node, handle, 0, b"x").unwrap();
        assert_eq!(mode(&mut guest), 0o6755, "a write of one who may");
    }
    guest.write_as(file.node, handle, 0, b"x", KILL_SUIDGID, 0).unwrap();
    assert_eq!(mode(&mut guest), 0o755);
}

#[test]
fn holes_are_found_made_and_filled() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    guest.write(file.node, handle, 1 << 20, &[1; 8192]).unwrap();
    let seek = |guest: &mut Guest, offset: u64, whence: i32| {
        let answer = guest.call(opcode::LSEEK, file.node, |args| {
            args.u64(handle).u64(offset).u32(whence.cast_unsigned()).u32(0)
        });
        answer.map(|answer| Fields::new(&answer).u64().unwrap())
    };
    assert_eq!(seek(&mut guest, 0, libc::SEEK_DATA), Ok(1 << 20));
    assert_eq!(seek(&mut guest, 1 << 20, libc::SEEK_HOLE), Ok((1 << 20) + 8192));
    assert_eq!(seek(&mut guest, 1 << 30, libc::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(seek(&mut guest, 0, libc::SEEK_END), Err(Errno::EINVAL));
    let allocate = |guest: &mut Guest, offset: u64, length: u64, mode: i32| {
        guest
            .call(opcode::FALLOCATE, file.node, |args| {
                args.u64(handle).u64(offset).u64(length).u32(mode.cast_unsigned()).u32(0)
            })
            .map(drop)
    };
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(&mut guest, 1 << 20, 4096, punch).unwrap();
    assert_eq!(guest.read(file.node, handle, (1 << 20) + 4095, 2).unwrap(), [0, 1]);
    allocate(&mut guest, 0, 2 << 20, 0).unwrap();
    assert_eq!(guest.getattr(file.node).unwrap().size, 2 << 20);
    assert_eq!(allocate(&mut guest, 0, 1, libc::FALLOC_FL_COLLAPSE_RANGE), Err(Errno::EOPNOTSUPP));
    assert_eq!(allocate(&mut guest, u64::MAX, 1, 0), Err(Errno::EFBIG));
}

#[test]
fn a_file_longer_than_the_hosts_limit_is_refused() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const LIMIT: u64 = 1 << 40;
    crate::file_limit::is_an_error();
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    // Of this process: no other test's files are as long.
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, getrlimit(Resource::RLIMIT_FSIZE).unwrap().1).unwrap();
    assert_eq!(guest.write(file.node, handle, LIMIT, b"x"), Err(Errno::EFBIG));
    guest.write(file.node, handle, 0, b"x").unwrap();
}

#[test]
fn a_range_is_copied_from_file_to_file() {
    let mut guest = Guest::new();
    let (from, from_handle) = guest.create(ROOT, "a", RDWR, 0o644).unwrap();
    let (to, to_handle) = guest.create(ROOT, "b", RDWR, 0o644).unwrap();
    guest.write(from.node, from_handle, 0, b"0123456789").unwrap();
    let answer = guest.call(opcode::COPY_FILE_RANGE, from.node, |args| {
        args.u64(from_handle).u64(2).u64(to.node).u64(to_handle).u64(1).u64(4).u64(0)
    });
    assert_eq!(Fields::new(&answer.unwrap()).u32(), Ok(4));
    assert_eq!(fs::read(guest.path("b")).unwrap(), b"\x002345");
}

#[test]
fn what_makes_durable_is_done() {
    let mut guest = Guest::new();
    let (file, handle) = guest.create(ROOT, "f", RDWR, 0o644).unwrap();
    for (opcode, flags) in [(opcode::FSYNC, 0), (opcode::FSYNC, 1), (opcode::FLUSH, 0)] {
        guest.call(opcode, file.node, |args| args.u64(handle).u32(flags).zeroes(12)).unwrap();
    }
    let directory = guest.call(opcode::OPENDIR, ROOT, |args| args.zeroes(8)).unwrap();
    let directory = Fields::new(&directory).u64().unwrap();
    guest.call(opcode::FSYNCDIR, ROOT, |args| args.u64(directory).zeroes(8)).unwrap();
    guest.call(opcode::SYNCFS, ROOT, |args| args.zeroes(8)).unwrap();
    for flags in [libc::O_SYNC, libc::O_DSYNC] {
        guest.write_as(file.node, handle, 0, b"x", 0, flags.cast_unsigned()).unwrap();
    }
}

#[test]
fn without_a_cache_the_guest_keeps_nothing() {
    let mut guest = Guest::with(|share| share.cache = CachePolicy::Never, 1024);
    fs::write(guest.path("f"), "x").unwrap();
    let answer = guest.call(opcode::LOOKUP, ROOT, |args| args.put(&text("f"))).unwrap();
    assert_eq!(answer[16..32], [0; 16], "neither the name nor the attributes");
    let answer = guest.call(opcode::OPEN, entry(&answer).node, |args| args.zeroes(8)).unwrap();
    let flags = answer[8];
    assert_eq!(flags & 1, 1, "nor the contents");

    let mut guest = Guest::new();
    fs::write(guest.path("f"), "x").unwrap();
    let answer = guest.call(opcode::LOOKUP, ROOT, |args| args.put(&text("f"))).unwrap();
    assert_eq!((answer[16], answer[24]), (1, 1), "a second each");
}
