//! Initial RAM file systems that cannot be loaded.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::place::{Place, as_ordinary_user};

const BOOT_I: [&str; 2] = ["--initrd", "i"];

#[test]
fn one_that_is_missing() {
    let message = "cannot open initrd 'i': there is no such file; give the path of a cpio archive";
    Place::new().refuses(&BOOT_I, 30, message);
}

#[test]
fn one_larger_than_memory() {
    let place = Place::new();
    // Sparse: what is too large must not be read first.
    for (length, mib) in [(200 << 20, 200), (5 << 30, 5120), ((112 << 20) + 1, 113)] {
        place.sparse("i", length);
        let message = format!(
            "cannot load initrd 'i': its {mib} MiB do not fit into the 111 MiB of memory above the kernel; give the VM \
             more memory"
        );
        place.refuses(&BOOT_I, 31, &message);
    }
}

#[test]
fn one_that_cannot_be_read() {
    let place = Place::new();
    place.file("empty", "");
    let of_cpio = "give the path of a cpio archive";
    let message = format!("cannot use initrd 'empty': the file is empty; {of_cpio}");
    place.refuses(&["--initrd", "empty"], 32, &message);
    let message = format!("cannot open initrd '.': it is a directory; {of_cpio}");
    place.refuses(&["--initrd", "."], 32, &message);

    place.file("i", "070701");
    fs::set_permissions(place.path("i"), fs::Permissions::from_mode(0o000)).unwrap();
    let message = "cannot open initrd 'i': permission denied; let this user read it";
    place.command_refuses(as_ordinary_user(&place, &BOOT_I), 32, message);
}
