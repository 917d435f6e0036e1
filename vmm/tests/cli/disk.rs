//! Disks that cannot be attached.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::place::{Place, as_ordinary_user, cannot_run};

const BOOT_D: [&str; 2] = ["--disk", "d"];
const OF_IMAGE: &str = "give the path of a raw image or a block device";

#[test]
fn one_that_is_missing() {
    let message = format!("cannot open disk 'd': there is no such file; {OF_IMAGE}");
    Place::new().refuses(&BOOT_D, 50, &message);
}

/// Locks the whole file as another VM would.
#[track_caller]
fn lock(place: &Place, kind: libc::c_int) -> File {
    let file = File::options().read(true).write(true).open(place.path("d")).unwrap();
    let [l_type, l_whence] = [kind, libc::SEEK_SET].map(|constant| constant.try_into().unwrap());
    let whole = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    file
}

#[test]
fn one_that_another_vm_uses() {
    let place = Place::new();
    place.sparse("d", 1 << 20);
    let reader = lock(&place, libc::F_RDLCK);
    let message = "cannot open disk 'd' for reading and writing: it is in use already; stop what uses it (lslocks lists \
                   such), or attach the disk read-only (ro) everywhere";
    place.refuses(&BOOT_D, 51, message);
    drop(reader);

    let _writer = lock(&place, libc::F_WRLCK);
    place.refuses(&BOOT_D, 51, message);
    let message = "cannot open disk 'd' for reading: it is open for writing already; stop what uses it (lslocks lists \
                   such)";
    place.refuses(&["--disk", "d,ro"], 51, message);
}

#[test]
fn the_same_one_twice() {
    let place = Place::new();
    place.sparse("d", 1 << 20);
    let message = "cannot open disk 'd' for reading and writing: it is in use already; stop what uses it (lslocks lists \
                   such), or attach the disk read-only (ro) everywhere";
    place.refuses(&["--disk", "d", "--disk", "d"], 51, message);
}

#[test]
fn a_read_only_file_to_be_written_to() {
    let place = Place::new();
    place.sparse("d", 1 << 20);
    fs::set_permissions(place.path("d"), Permissions::from_mode(0o444)).unwrap();
    let advice = "make it writable, or attach the disk read-only (ro)";
    if nix::unistd::geteuid().is_root() {
        let message = format!("cannot open disk 'd' for writing: its mode lets nobody write; {advice}");
        place.refuses(&BOOT_D, 52, &message);
    }
    let message = "cannot open disk 'd' for reading and writing: permission denied; let this user write to it, or \
                   attach the disk read-only (ro)";
    place.command_refuses(as_ordinary_user(&place, &BOOT_D), 55, message);
}

#[test]
fn one_on_a_file_system_that_is_read_only() {
    let place = Place::new();
    place.sparse("d", 1 << 20);
    // In a mount namespace, which is gone with the shell.
    let mut shell = place.command("unshare");
    let script = r#"mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" || exit 99
                    exec "$0" boot --disk d"#;
    shell.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_rvm")]);
    if !nix::unistd::geteuid().is_root() {
        return cannot_run("only the superuser mounts");
    }
    let message = "cannot open disk 'd' for writing: its file system is mounted read-only; make it writable, or attach \
                   the disk read-only (ro)";
    place.command_refuses(shell, 52, message);
}

#[test]
fn one_whose_length_no_disk_has() {
    let place = Place::new();
    for length in [0, 1, 511, 513, (1 << 20) + 1] {
        place.sparse("d", length);
        let message = format!(
            "cannot use 'd' as a disk: its length of {length} bytes is not a positive multiple of 512; extend it, as \
             with truncate --size=%512, or check that it is a raw image"
        );
        place.refuses(&BOOT_D, 53, &message);
    }
}

#[test]
fn what_is_no_disk() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.path("s")).unwrap();
    nix::unistd::mkfifo(&place.path("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, what) in [
        (".", "a directory"),
        ("s", "a socket, or a device that is not there"),
        ("p", "a character device, a pipe or a socket"),
        ("/dev/null", "a character device, a pipe or a socket"),
    ] {
        place.refuses(&["--disk", path], 54, &format!("cannot open disk '{path}': it is {what}; {OF_IMAGE}"));
    }
}

#[test]
fn one_for_an_engine_that_the_host_does_not_have() {
    let place = Place::new();
    place.sparse("d", 512);
    // As container runtimes and the sysctl kernel.io_uring_disabled do it.
    let refuse = u32::try_from(libc::EPERM).unwrap();
    let (calls, allow) = (BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]), SeccompAction::Allow);
    let filter = SeccompFilter::new(calls, allow, SeccompAction::Errno(refuse), TargetArch::x86_64).unwrap();
    let filter = BpfProgram::try_from(filter).unwrap();
    let message = "cannot use io_uring for disk 'd'; allow it on this host, or give engine=auto or engine=sync: \
                   Operation not permitted (os error 1)";
    // A filter holds for one thread and what that starts.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            apply_filter(&filter).unwrap();
            place.refuses(&["--disk", "d,engine=io-uring"], 56, message);
        });
    });
}

#[test]
fn more_than_there_are_interrupt_lines() {
    let place = Place::new();
    place.sparse("d", 512);
    let disks = ["--disk", "d,ro"].repeat(18);
    place.refuses(&disks, 74, "20 devices are too many: a VM has at most 19; leave some out, or make one disk of several images (parts=)");
}

#[test]
fn a_serial_number_that_is_too_long() {
    let id = "0123456789-0123456789";
    let message = format!("disk id '{id}' must be 1 to 20 printable ASCII characters");
    Place::new().refuses(&["--disk", &format!("d,id={id}")], 74, &message);
}
