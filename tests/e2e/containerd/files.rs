//! Root file systems by snapshotters, and bind mounts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::place::Place;

#[test]
fn snapshotters_mount_the_root_and_have_what_was_written() {
    have_what_was_written(&[("overlay", "overlayfs"), ("native", "native")]);
}

/// Up to containerd 2.1 they are an overlay like any other, mounted before the shim hears of them.
#[test]
fn layers_of_erofs_are_mounted_and_have_what_was_written() {
    have_what_was_written(&[("erofshost", "erofs")]);
}

fn have_what_was_written(snapshotters: &[(&'static str, &str)]) {
    for &(name, snapshotter) in snapshotters {
        let Some(place) = Place::with_snapshotter(name, snapshotter) else { return };
        place.detached(&["--snapshotter", snapshotter], "c1", &["sh", "-c", "echo kept > /file; sleep 1000"]);
        let read =
            ["tasks", "exec", "--exec-id", "e1", "c1", "sh", "-c", "until cat /file; do sleep 0.1; done"];
        assert_eq!(place.said(&read), "kept\n", "{snapshotter}");
        let root = format!("/run/containerd/io.containerd.runtime.v2.task/{name}/c1/rootfs");
        assert_eq!(fs::read_to_string(format!("{root}/file")).unwrap(), "kept\n", "{snapshotter}");
        // The VMM sees it, and can neither run programs of it nor open devices.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let shown: Vec<_> = mounts.lines().filter(|line| line.contains("/shown/")).collect();
        let is_bare = |line: &&str| ["nodev", "nosuid", "noexec"].iter().all(|option| line.contains(option));
        assert!(!shown.is_empty() && shown.iter().all(is_bare), "{shown:#?}");
        place.said(&["tasks", "rm", "-f", "c1"]);
        let changes = place.said(&["snapshots", "--snapshotter", snapshotter, "ls"]);
        assert!(changes.contains("c1"), "{changes}");
        place.said(&["containers", "rm", "c1"]);
        place.leaves_nothing();
    }
}

/// Runs a command that is to go well.
#[track_caller]
fn on_host(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

/// A file system of a test's own on the host; unmounted in the end.
struct Mounted(String);

impl Mounted {
    fn at(path: String) -> Self {
        on_host("mount", &["-t", "tmpfs", "rvm-test", &path]);
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        on_host("umount", &["--lazy", &self.0]);
    }
}

#[test]
fn files_and_directories_of_the_host_are_bound_and_protected() {
    let Some(place) = Place::new("binds") else { return };
    let host = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| host.path().join(name).into_os_string().into_string().unwrap();
    for directory in ["shared", "protected/below"] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    fs::write(path("one"), "a file\n").unwrap();
    let _below = Mounted::at(path("protected/below"));
    // Only what is mounted in a shared mount is heard of elsewhere: on hosts of systemd all are.
    let base = Mounted::at(path("shared"));
    on_host("mount", &["--make-shared", &base.0]);
    fs::create_dir(path("shared/later")).unwrap();
    let bind =
        |name: &str, options: &str| format!("type=bind,src={},dst=/{name},options={options}", path(name));
    let (shared, protected, one) =
        (bind("shared", "rbind:rslave:rw"), bind("protected", "rbind:ro"), bind("one", "bind:ro"));
    let flags = ["--mount", &shared, "--mount", &protected, "--mount", &one];
    let script = "cat /one; for at in /protected /protected/below; do touch $at/file 2>&1; echo $?; done; \
                  ls /shared/later; echo written >/shared/file; until cat /shared/later/file 2>/dev/null; do sleep 0.1; done";
    let (written, later) = (path("shared/file"), path("shared/later"));
    let over = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        // Once the container runs, and has looked.
        let mounts = scope.spawn(|| {
            while !Path::new(&written).exists() {
                if over.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let mounted = Mounted::at(later.clone());
            fs::write(format!("{later}/file"), "mounted later\n").unwrap();
            Some(mounted)
        });
        let ran = place.container(&flags, "c1", &["sh", "-c", script]);
        over.store(true, Ordering::Relaxed);
        drop(mounts.join().unwrap());
        ran
    });
    let refused = |at: &str| format!("touch: {at}/file: Read-only file system\n1\n");
    let expected =
        ["a file\n", &refused("/protected"), &refused("/protected/below"), "mounted later\n"].concat();
    assert_eq!(ran.out, expected, "{ran:?}");
    assert_eq!(fs::read_to_string(path("shared/file")).unwrap(), "written\n");
    assert_eq!(fs::read_dir(path("protected/below")).unwrap().count(), 0);
    place.leaves_nothing();
    // Nothing that was bound went with the container.
    assert_eq!(fs::read_to_string(path("one")).unwrap(), "a file\n");
}

#[test]
fn what_cannot_be_shared_is_refused_by_name() {
    let Some(place) = Place::new("refused") else { return };
    for (flags, words) in [
        (&["--mount", "type=bind,src=/dev/kvm,dst=/x,options=bind"][..], "'/dev/kvm'"),
        (&["--mount", "type=bind,src=/nowhere,dst=/x,options=bind"][..], "'/nowhere'"),
        (&["--mount", "type=bind,src=/srv,dst=/x,options=rbind:rshared"][..], "'/srv' as shared"),
        (&["--net-host"][..], "the host's network"),
    ] {
        let ran = place.container(flags, "c1", &["true"]);
        assert_ne!(ran.status, Some(0), "{flags:?}");
        assert!(ran.error.contains(words), "{flags:?}: {ran:?}");
        place.leaves_nothing();
    }
}
