use super::*;

#[test]
fn a_pod_has_a_place_of_its_own_whose_socket_has_a_short_path() {
    let place = Place::of("k8s.io", &"x".repeat(76));
    assert_eq!(place.path, Place::of("k8s.io", &"x".repeat(76)).path);
    assert_ne!(place.path, Place::of("default", &"x".repeat(76)).path);
    assert!(place.vsock().as_os_str().len() < 60);
}

#[test]
fn a_process_began_once() {
    let began_now = began(std::process::id()).unwrap();
    assert_eq!(began(std::process::id()).unwrap(), began_now);
    assert!(began_now.parse::<u64>().unwrap() > 0);
    assert!(began(0).is_err());
}

/// Does this with a directory of the host's, and a place of a pod for it, in a mount namespace of its own. Below the
/// directory another file system is mounted, at `below`.
fn with_mounts(test: impl FnOnce(&Path, &Place) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
            println!("\nrvm-tests: cannot run: no mount namespace for the test: {error}");
            return;
        }
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(NONE, "/", NONE, flags, NONE).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (host, place) = (directory.path().join("host"), directory.path().join("place"));
        fs::create_dir(&host).unwrap();
        mount(NONE, &host, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        mount(NONE, &host, NONE, MsFlags::MS_SHARED, NONE).unwrap();
        for name in ["below", "later"] {
            fs::create_dir(host.join(name)).unwrap();
        }
        mount(NONE, &host.join("below"), Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        let place = Place { path: place };
        let _held = place.make().unwrap();
        test(&host, &place);
        place.remove().unwrap();
        unmount(&host.join("below")).unwrap();
        unmount(&host).unwrap();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Shows the directory; gives where the guest finds it.
fn shown(place: &Place, host: &Path, name: &str, change: impl FnOnce(&mut Bind)) -> PathBuf {
    let target = place.made().join(name);
    fs::create_dir(&target).unwrap();
    let mut bind = Bind::root(host);
    change(&mut bind);
    place.show(&bind, &target).unwrap();
    place.shown().join(name)
}

#[test]
fn what_is_mounted_below_is_restricted_as_well() {
    with_mounts(|host, place| {
        use nix::sys::statvfs::{FsFlags, statvfs};
        let bare = FsFlags::ST_NODEV | FsFlags::ST_NOEXEC | FsFlags::ST_NOSUID;
        let protected = shown(place, host, "protected", |bind| bind.read_only = true);
        let open = shown(place, host, "open", |_| {});
        for directory in ["", "below"] {
            let protected = protected.join(directory);
            let error = fs::write(protected.join("file"), "").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{directory}");
            fs::write(open.join(directory).join("file"), directory).unwrap();
            assert_eq!(fs::read_to_string(protected.join("file")).unwrap(), directory);
            for path in [protected, open.join(directory)] {
                assert!(statvfs(&path).unwrap().flags().contains(bare), "{}", path.display());
            }
        }
        // What is read-only on the host stays so, however it is shown.
        let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, &host.join("below"), NONE, again, NONE).unwrap();
        let open = shown(place, host, "open-again", |_| {});
        assert!(fs::write(open.join("below/file"), "").is_err());
    });
}

#[test]
fn what_is_mounted_later_appears_where_the_bind_follows() {
    with_mounts(|host, place| {
        let following = shown(place, host, "following", |_| {});
        let private = shown(place, host, "private", |bind| bind.follows = false);
        mount(NONE, &host.join("later"), Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::write(host.join("later/file"), "").unwrap();
        assert!(following.join("later/file").exists() && !private.join("later/file").exists());
        // Nothing goes the other way.
        unmount(&place.made().join("following/below")).unwrap();
        fs::write(host.join("below/file"), "").unwrap();
        assert!(!following.join("below/file").exists());
        unmount(&host.join("later")).unwrap();
        assert!(!following.join("later/file").exists());
    });
}
