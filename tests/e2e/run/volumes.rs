//! Directories of the host in a container, and what it writes elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::killed::processes;
use super::place::{Place, image};
use crate::rights;

#[test]
fn a_volume_is_written_inside_and_read_outside() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let shared = place.path("work/shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("from-outside"), "outside\n").unwrap();
    let script = "cd /data; cat from-outside; echo inside >from-inside; chown 12:34 from-inside; chmod 640 from-inside; \
                  mkdir -p a/b; ln -s ../from-inside a/link; ln from-inside hard; mv from-outside renamed; mkfifo pipe";
    let said = place.said(&["run", "--rm", "-v", "./shared:/data", &busybox, "sh", "-c", script]);
    assert_eq!(said, "outside\n");
    let file = shared.join("from-inside");
    assert_eq!(fs::read_to_string(&file).unwrap(), "inside\n");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o777, metadata.nlink()),
        (12, 34, 0o640, 2)
    );
    assert_eq!(fs::read_link(shared.join("a/link")).unwrap().to_str(), Some("../from-inside"));
    assert!(!shared.join("from-outside").exists() && shared.join("renamed").exists());

    // What is read-only is so for root too.
    let source = format!("{}:/data:ro", shared.display());
    let script = "cat /data/from-inside; echo x 2>&1 >/data/new; rm /data/renamed 2>&1; mount -o remount,rw /data 2>&1";
    let ran = place.run(&["run", "--rm", "--cap-add", "ALL", "-v", &source, &busybox, "sh", "-c", script]);
    assert!(
        ran.out.starts_with("inside\n") && ran.out.matches("Read-only file system").count() >= 2,
        "{ran:?}"
    );
    assert!(!shared.join("new").exists() && shared.join("renamed").exists());
}

#[test]
fn nothing_leads_out_of_a_volume() {
    let place = Place::with(&["busybox"]);
    fs::write(place.path("work/secret"), "of the host\n").unwrap();
    let shared = place.path("work/shared");
    fs::create_dir(&shared).unwrap();
    symlink("../secret", shared.join("relative")).unwrap();
    symlink(place.path("work/secret"), shared.join("absolute")).unwrap();
    symlink("..", shared.join("up")).unwrap();
    let script = "cd /data; cat relative absolute up/secret up/up/secret ../secret 2>/dev/null; \
                  ln -s ../secret mine; cat mine 2>/dev/null; echo overwritten 2>/dev/null >relative; \
                  mkdir deep; mv deep up/ 2>/dev/null; mknod disk b 254 0; ls up/work 2>/dev/null; echo tried";
    let ran = place.run(&["run", "--rm", "-v", "./shared:/data", &image("busybox"), "sh", "-c", script]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "tried\n"), "{ran:?}");
    assert_eq!(fs::read_to_string(place.path("work/secret")).unwrap(), "of the host\n");
    let mut names: Vec<_> =
        fs::read_dir(place.path("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["secret", "shared"]);
    // A device of the guest's making is none of the host's.
    if let Ok(metadata) = fs::symlink_metadata(shared.join("disk")) {
        assert!(metadata.is_file(), "{metadata:?}");
    }
}

#[test]
fn a_named_volume_is_kept_from_one_container_to_the_next() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    place.said(&["run", "--rm", "-v", "box:/data", &busybox, "sh", "-c", "echo kept >/data/file"]);
    assert_eq!(place.said(&["run", "--rm", "-v", "box:/data:ro", &busybox, "cat", "/data/file"]), "kept\n");
}

#[test]
fn what_a_container_writes_to_its_root_is_its_own_and_ends_with_it() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let script = "echo x >/bin/cat && rm /etc/group && mkdir /new && mv /new /etc/moved && ls /etc/moved";
    place.said(&["run", "--rm", &busybox, "sh", "-c", script]);
    assert_eq!(place.said(&["run", "--rm", &busybox, "cat", "/etc/group"]).lines().count(), 2);

    // On a disk there is as much room as was asked for, and in the guest's memory not taken from it.
    let script = "df -m / | tail -1 | awk '{print $2}'; dd if=/dev/zero of=/file bs=1M count=100 2>&1 | tail -1; \
                  dd if=/dev/zero of=/file bs=1M count=400 2>&1 | head -1";
    let said =
        place.said(&["run", "--rm", "-m", "64M", "--storage-size", "300M", &busybox, "sh", "-c", script]);
    let lines: Vec<&str> = said.lines().collect();
    let size: u32 = lines[0].parse().unwrap();
    assert!((240..=300).contains(&size), "{said}");
    assert!(lines[1] == "100+0 records out" && lines[2].contains("No space left on device"), "{said}");
}

#[test]
fn a_file_is_shared_without_what_is_beside_it() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let file = place.path("work/settings");
    fs::write(&file, "of the host\n").unwrap();
    fs::write(place.path("work/secret"), "secret\n").unwrap();
    let script = "cat /etc/app/settings; echo inside >/etc/app/settings; chmod 600 /etc/app/settings; ls /etc/app; \
                  rm /etc/app/settings 2>/dev/null || echo kept; grep -c virtiofs /proc/mounts";
    let said =
        place.said(&["run", "--rm", "-v", "./settings:/etc/app/settings", &busybox, "sh", "-c", script]);
    assert_eq!(said, "of the host\nsettings\nkept\n1\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "inside\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // Where the image has a file already, and with more than one of them.
    let source = format!("{}:/etc/group:ro", file.display());
    let script = "cat /etc/group /secret; echo x >/etc/group";
    let flags = ["run", "--rm", "-v", &source, "-v", "./secret:/secret:ro", &busybox, "sh", "-c", script];
    let ran = place.run(&flags);
    assert_eq!(ran.out, "inside\nsecret\n", "{ran:?}");
    assert!(ran.status != Some(0) && ran.error.contains("Read-only file system"), "{ran:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "inside\n");

    let link = place.text("work/link");
    symlink("/dev/kvm", &link).unwrap();
    place.refuses(
        &["run", "--rm", "-v", &format!("{link}:/dev/kvm"), &busybox, "true"],
        125,
        "regular files",
    );
}

#[test]
fn the_machine_has_rights_of_its_own_and_those_of_a_file_server_with_a_volume() {
    let place = Place::with(&["busybox"]);
    let source = format!("{}:/data", place.path("work").display());
    for volume in [&[][..], &["-v", &source]] {
        let flags = ["--name", "box", &image("busybox"), "sleep", "1000"];
        place.said(&[&["run", "-d"], volume, &flags].concat());
        let (_, vmm) = processes(&place);
        let threads = ["rvm", "rvm-vcpu0", "rvm-vsock", "rvm-block", "rvm-net", "rvm-rng"];
        rights::are_given_up(vmm.as_raw(), !volume.is_empty(), &threads);
        place.said(&["rm", "-f", "box"]);
    }
}
