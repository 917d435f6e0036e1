//! Configuration files that are none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::place::Place;

const BOOT_C: [&str; 2] = ["--config", "c"];

#[track_caller]
fn refuses(json: &str, status: i32, reason: &str) {
    let place = Place::new();
    place.file("c", json);
    let message = format!(
        "cannot use configuration 'c': {reason}; correct it (`rvm boot --print-config` shows what it looks like)"
    );
    place.refuses(&BOOT_C, status, &message);
}

#[test]
fn one_that_cannot_be_read() {
    let place = Place::new();
    let message = "cannot read configuration 'c': No such file or directory (os error 2); give the path of a file that \
                   you may read";
    place.refuses(&BOOT_C, 70, message);
    let message = "cannot read configuration '.': Is a directory (os error 21); give the path of a file that you may read";
    place.refuses(&["--config", "."], 70, message);
    let message =
        "cannot read configuration '/dev/zero': it is longer than 1048576 bytes; is it the right file?";
    place.refuses(&["--config", "/dev/zero"], 70, message);
}

#[test]
fn json_that_is_none_with_its_line() {
    refuses("", 71, "EOF while parsing a value at line 1 column 0");
    refuses("{\n  \"cpus\": 2,\n,}", 71, "key must be a string at line 3 column 1");
    refuses("{\n  \"cpus\": 2\n} {}", 71, "trailing characters at line 3 column 3");
    refuses("cpus = 2", 71, "expected value at line 1 column 1");
}

#[test]
fn a_value_of_the_wrong_kind() {
    refuses(r#"{"cpus": "two"}"#, 71, r#"invalid type: string "two", expected u64 at line 1 column 14"#);
    refuses(r#"{"cpus": 256}"#, 71, "cpus cannot be 256: a VM has 1 to 32 at line 1 column 13");
    let not_memory = "'x' is not an amount of memory that a VM can have: write for example 256M or 2G";
    refuses(r#"{"memory": "x"}"#, 71, &format!("{not_memory} at line 1 column 15"));
    refuses(
        r#"{"console": "tty"}"#,
        71,
        "unknown variant `tty`, expected one of `stdio`, `file`, `captured`, `none` at line 1 column 17",
    );
}

#[test]
fn an_unknown_field() {
    refuses(
        "{\n \"cpu\": 2}",
        72,
        "unknown field `cpu`, expected one of `kernel`, `cpus`, `memory`, `disks`, `shares`, `nets`, `vsock`, `balloon`, \
         `rng`, `console`, `seccomp`, `control` at line 2 column 6",
    );
}

#[test]
fn an_unknown_field_further_down() {
    for (json, reason) in [
        (
            r#"{"kernel": {"path": "k"}}"#,
            "unknown field `path`, expected one of `image`, `initrd`, `cmdline`, `bare_cmdline` at line 1 column 18",
        ),
        (
            r#"{"disks": [{"path": "d", "ro": true}]}"#,
            "unknown field `ro`, expected one of `path`, `parts`, `placeholder`, `read_only`, `id`, `engine` at line 1 column 29",
        ),
        (
            r#"{"nets": [{"tap": {"name": "t"}, "ip": 1}]}"#,
            "unknown field `ip`, expected one of `tap`, `socket`, `mac`, `mtu`, `offload` at line 1 column 37",
        ),
        (
            r#"{"vsock": {"path": "s"}}"#,
            "unknown field `path`, expected `cid` or `socket` at line 1 column 17",
        ),
    ] {
        refuses(json, 72, reason);
    }
}

#[test]
fn values_out_of_bounds_are_refused_as_those_of_flags_are() {
    let place = Place::new();
    place.file("c", r#"{"cpus": 33}"#);
    place.refuses(&BOOT_C, 42, "cpus cannot be 33: a VM has 1 to 32");
    place.file("c", r#"{"memory": 1}"#);
    place.refuses(&BOOT_C, 40, "memory cannot be 1 MiB: a VM has 64 MiB to 512 GiB");
    place.refuses(
        &["--config", "c", "--print-config"],
        40,
        "memory cannot be 1 MiB: a VM has 64 MiB to 512 GiB",
    );
}

#[test]
fn a_path_that_json_cannot_carry() {
    let kernel = OsStr::from_bytes(b"k\xff");
    let message = "cannot print the configuration: path contains invalid UTF-8 characters";
    Place::new().refuses(&[OsStr::new("--kernel"), kernel, OsStr::new("--print-config")], 75, message);
}

#[test]
fn what_is_printed_is_what_is_read() {
    let place = Place::new();
    let printed = |arguments: &[&str]| {
        let output = place.boot(arguments).arg("--print-config").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let flags = "--kernel k --initrd i --cmdline quiet --bare-cmdline --cpus 2 --memory 1G --disk a,ro,id=x,engine=sync \
                 --disk b --disk parts=c:d --disk placeholder=on,id=later --net tap0,mac=02:00:00:00:00:01,mtu=9000,offload=off --net fd=3 --net socket-fd=4 --vsock s,cid=9 \
                 --balloon 16M,reporting=off,deflate-on-oom=off --no-rng --console file=out --control fd=9 --no-seccomp";
    let config = printed(&flags.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>());
    place.file("c", &config);
    assert_eq!(printed(&BOOT_C), config);
    assert_ne!(printed(&[]), config);
}
