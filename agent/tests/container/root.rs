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

#[test]
fn a_link_at_the_place_of_proc_or_sys_is_refused() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::script("");
        fs::remove_dir(bundle.root().join(name)).unwrap();
        fs::create_dir(bundle.root().join("elsewhere")).unwrap();
        symlink("elsewhere", bundle.root().join(name)).unwrap();
        let err = bundle.refused();
        assert!(
            matches!(err, Error::Kernel { ref step, .. } if *step == format!("mount on /{name}")),
            "{err}"
        );
    }
}

#[test]
fn a_link_into_proc_does_not_bring_a_mount_there() {
    let volume = tempfile::tempdir().unwrap();
    let mount = json!({"destination": "/data", "source": volume.path(), "options": ["bind"]});
    let bundle = Bundle::script("").and("/mounts", mount);
    symlink("proc/sys", bundle.root().join("data")).unwrap();
    let err = bundle.refused();
    assert!(matches!(err, Error::Kernel { ref step, .. } if step == "mount on /data"), "{err}");
}

#[test]
fn links_at_the_places_of_masks_mask_what_they_lead_to_inside() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "outside").unwrap();
    let bundle = Bundle::script("cat /secret /link").with("/linux/maskedPaths", json!(["/link", "/out"]));
    fs::write(bundle.root().join("secret"), "secret").unwrap();
    symlink("secret", bundle.root().join("link")).unwrap();
    symlink(outside.path(), bundle.root().join("out")).unwrap();
    assert_eq!(bundle.run().said(), "");
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "outside");
}

#[test]
fn a_device_of_the_image_is_not_taken_for_another() {
    // Without a file system on /dev the image's own files are there.
    let bundle = Bundle::script("").with("/mounts", json!([]));
    fs::write(bundle.root().join("dev/null"), "").unwrap();
    let err = bundle.refused();
    assert!(matches!(err, Error::Kernel { ref step, .. } if step == "make the device /dev/null"), "{err}");
    let bundle = Bundle::script("").with("/mounts", json!([]));
    fs::remove_dir(bundle.root().join("dev")).unwrap();
    symlink("/tmp", bundle.root().join("dev")).unwrap();
    assert_eq!(bundle.run().status, 0);
    assert!(bundle.root().join("tmp/null").exists());
}

#[test]
fn a_working_directory_is_inside_whatever_the_image_says() {
    for link in ["/proc/self/cwd/../../../../..", "/../../..", "../../../../../../"] {
        let bundle = Bundle::script("pwd; ls /etc").with("/process/cwd", json!("/work"));
        fs::write(bundle.root().join("etc/mark"), "").unwrap();
        symlink(link, bundle.root().join("work")).unwrap();
        match bundle.create() {
            // Links of /proc are not followed.
            Err(err) => assert!(link.starts_with("/proc"), "{err}"),
            Ok(mut running) => {
                running.container.start().unwrap();
                assert_eq!(running.end().said(), "/\nmark\n");
            }
        }
    }
}

#[test]
fn a_program_that_is_a_link_out_is_not_found() {
    for link in ["/proc/1/root/bin/true", "../../../../../../../usr/bin/env"] {
        let bundle = Bundle::script("").with("/process/args", json!(["/bin/out"]));
        symlink(link, bundle.root().join("bin/out")).unwrap();
        fs::remove_file(bundle.root().join("bin/true")).unwrap();
        fs::remove_file(bundle.root().join("bin/env")).unwrap();
        let mut running = bundle.create().unwrap();
        let err = running.container.start().unwrap_err();
        assert!(matches!(err, Error::NoProgram { .. }), "{err}");
        running.end();
    }
}

#[test]
fn a_volume_is_read_only_or_not_as_asked() {
    for (option, expected) in [("ro", "kept\nread-only\n"), ("rw", "kept\n")] {
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join("file"), "kept\n").unwrap();
        let mount = json!({"destination": "/deep/data", "type": "bind", "source": volume.path(),
            "options": ["rbind", option]});
        let bundle = Bundle::script("cat /deep/data/file; touch /deep/data/new 2>&- || echo read-only");
        assert_eq!(bundle.and("/mounts", mount).run().said(), expected);
        assert_eq!(volume.path().join("new").exists(), option == "rw");
    }
}

#[test]
fn a_file_can_be_mounted_over_one_that_is_missing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "nameserver 192.0.2.1\n").unwrap();
    let mount = json!({"destination": "/etc/resolv.conf", "source": file.path(), "options": ["bind", "ro"]});
    let bundle = Bundle::script("cat /etc/resolv.conf").and("/mounts", mount);
    assert_eq!(bundle.run().said(), "nameserver 192.0.2.1\n");
}

#[test]
fn mount_options_are_seen_in_the_table_of_mounts() {
    let mount = json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "noatime", "size=1m", "mode=700", "uid=5"]});
    let bundle = Bundle::script("grep ' /scratch ' /proc/self/mounts; stat -c '%a %u' /scratch");
    let ran = bundle.and("/mounts", mount).run();
    assert_eq!(
        ran.said(),
        "tmpfs /scratch tmpfs rw,nosuid,nodev,noexec,noatime,size=1024k,mode=700,uid=5 0 0\n700 5\n"
    );
}

#[test]
fn owners_of_an_id_mapped_volume_are_other_ones() {
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("file"), "").unwrap();
    std::os::unix::fs::chown(volume.path().join("file"), Some(1000), Some(1001)).unwrap();
    let map = |inside: u32, outside: u32| json!([{"containerID": inside, "hostID": outside, "size": 10}]);
    let mount = json!({"destination": "/data", "source": volume.path(), "options": ["bind", "idmap"],
        "uidMappings": map(1000, 5000), "gidMappings": map(1000, 6000)});
    let bundle = Bundle::script("stat -c '%u %g' /data/file").and("/mounts", mount);
    assert_eq!(bundle.run().said(), "5000 6001\n");
}

/// The fields of a mount that say how it propagates.
fn propagation(bundle: Bundle, mount: &str) -> String {
    let script = format!("grep ' / {mount} ' /proc/self/mountinfo");
    let args = json!(["sh", "-c", script]);
    let ran = bundle.with("/process/args", args).run();
    let fields = ran.said().split(' ').skip(6).take_while(|field| *field != "-");
    fields.map(|field| field.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn mounts_propagate_as_asked() {
    for (word, expected) in [("rprivate", ""), ("rshared", "shared"), ("runbindable", "unbindable")] {
        let scratch =
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": [word]});
        assert_eq!(propagation(Bundle::script("").and("/mounts", scratch), "/scratch"), expected, "{word}");
    }
    for (word, expected) in [("private", ""), ("shared", "shared")] {
        let bundle = Bundle::script("").with("/linux/rootfsPropagation", json!(word));
        let script = json!([
            "sh",
            "-c",
            "while read -r line; do set -- $line; [ $5 = / ] && echo $7; done < /proc/self/mountinfo"
        ]);
        let ran = bundle.with("/process/args", script).run();
        assert_eq!(ran.out.split(':').next().unwrap().trim().trim_matches('-'), expected, "{word}");
    }
}
