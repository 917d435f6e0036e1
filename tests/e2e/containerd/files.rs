//! Root file systems by snapshotters, and bind mounts.

use std::fs;

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

#[test]
fn files_and_directories_of_the_host_are_bound_and_protected() {
    let Some(place) = Place::new("binds") else { return };
    let host = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| host.path().join(name).into_os_string().into_string().unwrap();
    fs::create_dir(path("shared")).unwrap();
    fs::create_dir(path("protected")).unwrap();
    fs::write(path("one"), "a file\n").unwrap();
    let mount =
        |name: &str, options: &str| format!("type=bind,src={},dst=/{name},options={options}", path(name));
    let (shared, protected, one) =
        (mount("shared", "rbind:rw"), mount("protected", "rbind:ro"), mount("one", "bind:ro"));
    let flags = ["--mount", &shared, "--mount", &protected, "--mount", &one];
    let script = "cat /one; echo written > /shared/file; touch /protected/file 2>&1; echo $?";
    let ran = place.container(&flags, "c1", &["sh", "-c", script]);
    assert!(ran.out.starts_with("a file\n") && ran.out.ends_with("1\n"), "{ran:?}");
    assert_eq!(fs::read_to_string(path("shared/file")).unwrap(), "written\n");
    assert_eq!(fs::read_dir(path("protected")).unwrap().count(), 0);
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
        (&["--net-host"][..], "the host's network"),
    ] {
        let ran = place.container(flags, "c1", &["true"]);
        assert_ne!(ran.status, Some(0), "{flags:?}");
        assert!(ran.error.contains(words), "{flags:?}: {ran:?}");
        place.leaves_nothing();
    }
}
