//! The file system that a container sees: its root, mounts, masks and devices; also where the image is hostile.

use std::fs;
use std::os::unix::fs::symlink;

use rvm_agent::container::Error;
use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn the_root_is_the_bundles_and_nothing_else_is_mounted() {
    let bundle = Bundle::script("while read -r line; do set -- $line; echo $5; done < /proc/self/mountinfo");
    fs::write(bundle.root().join("etc/mark"), "").unwrap();
    let ran = bundle.run();
    let mounted: Vec<_> = ran.said().lines().collect();
    let expected = [
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys/firmware",
        "/proc/bus",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ];
    for mount in &mounted {
        assert!(expected.contains(mount), "{mount} is mounted");
    }
    assert!(mounted.starts_with(&expected[..8]), "{mounted:?}");
}

#[test]
fn masked_paths_are_empty_and_protected_ones_cannot_be_written() {
    let script = "cat /proc/keys; ls /sys/firmware; cat /proc/timer_list
        echo x > /proc/sys/kernel/hostname || echo protected";
    let ran = Bundle::script(script).run();
    assert_eq!((ran.status, ran.out.as_str()), (0, "protected\n"), "{ran:?}");
}

#[test]
fn a_read_only_root_cannot_be_written_but_its_mounts_can() {
    let script = "touch /file || echo root; touch /dev/shm/file && echo shm";
    let ran = Bundle::script(script).with("/root/readonly", json!(true)).run();
    assert_eq!((ran.status, ran.out.as_str()), (0, "root\nshm\n"), "{ran:?}");
}

#[test]
fn every_container_has_the_standard_devices_and_links() {
    let script =
        "for name in null zero full random urandom tty; do stat -c '%n %a %t:%T %u:%g' /dev/$name; done
        for name in fd stdin stdout stderr ptmx; do readlink /dev/$name; done
        head -c 3 /dev/zero | cat -v; echo lost > /dev/null";
    let expected = "/dev/null 666 1:3 0:0\n/dev/zero 666 1:5 0:0\n/dev/full 666 1:7 0:0\n/dev/random 666 1:8 0:0\n\
        /dev/urandom 666 1:9 0:0\n/dev/tty 666 5:0 0:0\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n\
        /proc/self/fd/2\npts/ptmx\n^@^@^@";
    assert_eq!(Bundle::script(script).run().said(), expected);
}

#[test]
fn a_device_of_the_specification_is_made() {
    let device = json!([{"path": "/dev/deep/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640,
        "uid": 5, "gid": 7}]);
    let bundle = Bundle::script("stat -c '%F %a %t:%T %u:%g' /dev/deep/own").with("/linux/devices", device);
    assert_eq!(bundle.run().said(), "character special file 640 1:3 5:7\n");
}

/// A hostile image's links lead where they would lead if its root were the only one.
#[test]
fn links_of_the_image_do_not_lead_a_mount_out() {
    let outside = tempfile::tempdir().unwrap();
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("mark"), "volume").unwrap();
    for target in
        [outside.path().to_str().unwrap().to_owned(), format!("../../../../..{}", outside.path().display())]
    {
        let mount = json!({"destination": "/data", "source": volume.path(), "options": ["bind"]});
        let bundle = Bundle::script("cat /data/mark").and("/mounts", mount);
        symlink(&target, bundle.root().join("data")).unwrap();
        // The link dangles in the container, where a mount cannot be made.
        let err = bundle.refused();
        assert!(matches!(err, Error::Kernel { ref step, .. } if step == "mount on /data"), "{err}");
        // Where the image has what it leads to, that is it.
        fs::create_dir_all(bundle.root().join(target.trim_start_matches(['.', '/']))).unwrap();
        assert_eq!(bundle.run().said(), "volume");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
