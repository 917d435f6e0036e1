//! INIT, and what there is before and after it.

use super::*;

const AUTO_INVAL_DATA: u32 = 1 << 12;
const WRITEBACK_CACHE: u32 = 1 << 16;
const LOCKS: u32 = 1 << 1 | 1 << 10;
const MAX_PAGES: u64 = 1 << 22;

fn unmounted() -> Guest {
    let directory = TempDir::new().unwrap();
    let share = Share {
        path: directory.path().into(),
        file: false,
        tag: "t".into(),
        read_only: false,
        cache: CachePolicy::Auto,
    };
    let device = Fs::open(&share, 1024).unwrap();
    Guest::unmounted(directory, device)
}

#[test]
fn versions_and_features_are_agreed_on() {
    let mut guest = unmounted();
    let answer = guest.init(7, 41, OFFERED).unwrap();
    assert_eq!(answer.len(), 64);
    let mut fields = Fields::new(&answer);
    let [major, minor, read_ahead, flags] = [(); 4].map(|()| fields.u32().unwrap());
    assert_eq!((major, minor, read_ahead), (7, 41, 1 << 17));
    assert_eq!(u64::from(flags) & !OFFERED, 0, "nothing that was not offered");
    assert_eq!(flags & AUTO_INVAL_DATA, AUTO_INVAL_DATA);
    assert_eq!(flags & (WRITEBACK_CACHE | LOCKS), 0);
    fields.skip(4).unwrap();
    assert_eq!(fields.u32(), Ok(1 << 20), "max_write");
}

#[test]
fn drivers_that_speak_another_protocol_are_refused() {
    let mut guest = unmounted();
    for (major, minor, offered) in
        [(6, 99, OFFERED), (8, 0, OFFERED), (7, 30, OFFERED), (7, 41, OFFERED & !MAX_PAGES)]
    {
        assert_eq!(guest.init(major, minor, offered), Err(Errno::EPROTO), "{major}.{minor}");
        assert_eq!(guest.getattr(ROOT), Err(Errno::EIO), "nothing is agreed on");
    }
    guest.init(7, 31, OFFERED).unwrap();
    guest.getattr(ROOT).unwrap();
}

#[test]
fn a_mount_after_the_end_of_another_starts_anew() {
    let mut guest = Guest::new();
    let (made, handle) = guest.create(ROOT, "a", RDWR, 0o644).unwrap();
    guest.call(opcode::DESTROY, 0, |args| args).unwrap();
    assert_eq!(guest.getattr(ROOT), Err(Errno::EIO));
    guest.init(7, 41, OFFERED).unwrap();
    assert_eq!(guest.getattr(made.node), Err(Errno::ESTALE));
    assert_eq!(guest.read(made.node, handle, 0, 1), Err(Errno::EBADF));
    guest.lookup(ROOT, "a").unwrap();
}

#[test]
fn a_reset_forgets_what_the_guest_knew_and_a_pause_does_not() {
    let mut guest = Guest::new();
    let made = guest.mkdir(ROOT, "a").unwrap();
    guest.driver.transport.pause();
    guest.driver.transport.resume();
    assert_eq!(guest.getattr(made.node).unwrap().inode, made.inode);
    guest.driver.initialise(u64::MAX);
    assert_eq!(guest.getattr(made.node), Err(Errno::EIO));
    guest.init(7, 41, OFFERED).unwrap();
    assert_eq!(guest.getattr(made.node), Err(Errno::ESTALE));
}

#[test]
fn the_configuration_has_the_tag_and_one_queue_of_requests() {
    let guest = Guest::new();
    let mut config = [0; 40];
    let share = Share {
        path: guest.path(""),
        file: false,
        tag: "data".into(),
        read_only: false,
        cache: CachePolicy::Auto,
    };
    Fs::open(&share, 1024).unwrap().config().read(0, &mut config);
    assert_eq!(config[..5], *b"data\0");
    assert_eq!(config[36..], [1, 0, 0, 0]);
}

#[test]
fn what_is_not_there_is_said_so() {
    let mut guest = Guest::new();
    // Locks, IOCTL, POLL, and numbers that mean nothing.
    for opcode in [0, 7, 19, 31, 32, 33, 34, 37, 39, 40, 48, 49, 52, 4096, u32::MAX] {
        assert_eq!(guest.call(opcode, ROOT, |args| args.zeroes(64)), Err(Errno::ENOSYS), "{opcode}");
    }
    assert_eq!(guest.stats.errors.get(), 0);
}

#[test]
fn a_directory_that_cannot_be_shared_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let open = |name: &str| {
        let path = directory.path().join(name);
        Fs::open(
            &Share { path, file: false, tag: "t".into(), read_only: false, cache: CachePolicy::Auto },
            1024,
        )
        .err()
        .unwrap()
    };
    assert!(matches!(open("nothing"), FsError::Missing(_)));
    assert!(matches!(open("file"), FsError::NotADirectory(_)));
    assert!(
        open("file")
            .to_string()
            .ends_with("file': it is no directory; give the path of one, or say that it is a file")
    );
}
