//! Command lines that cannot be understood.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::place::Place;

#[track_caller]
fn refuses(arguments: &[&str], message: &str) {
    Place::new().refuses(arguments, 2, message);
}

#[test]
fn flags_that_do_not_exist() {
    refuses(&["--bogus"], "unexpected argument '--bogus' found; --help lists what can be given");
    refuses(&["extra"], "unexpected argument 'extra' found; --help lists what can be given");
}

#[test]
fn flags_without_their_value_or_twice() {
    refuses(
        &["--cpus"],
        "a value is required for '--cpus <N>' but none was supplied; --help lists what can be given",
    );
    refuses(
        &["--cpus", "1", "--cpus", "2"],
        "the argument '--cpus <N>' cannot be used multiple times; --help lists what can be given",
    );
    refuses(
        &["--balloon", "1M", "--no-balloon"],
        "the argument '--balloon <BALLOON>' cannot be used with '--no-balloon'; --help lists what can be given",
    );
}

#[test]
fn values_that_their_flag_does_not_take() {
    refuses(&["--disk", ""], "cannot use '' for --disk: 'path=' is missing");
    refuses(
        &["--disk", "d,rw"],
        "cannot use 'd,rw' for --disk: unknown key 'rw' (known: path, parts, placeholder, ro, id, engine)",
    );
    refuses(
        &["--net", "t,mac=x"],
        "cannot use 't,mac=x' for --net: 'mac' cannot be 'x': six bytes like 52:54:00:12:34:56 are expected, the first \
         one even",
    );
    refuses(
        &["--console", "tty"],
        "cannot use 'tty' for --console: 'console' cannot be 'tty': stdio, captured, none or file=PATH is expected",
    );
}

#[test]
fn words_that_are_not_unicode() {
    let place = Place::new();
    let arguments = [OsStr::new("--cmdline"), OsStr::from_bytes(b"\xff")];
    place.refuses(
        &arguments,
        2,
        "invalid UTF-8 was detected in one or more arguments; --help lists what can be given",
    );
}

#[test]
fn a_name_with_a_newline_stays_in_the_line() {
    let message = r"cannot open kernel 'a\nb\u{1b}[0m': there is no such file; give the path of an ELF vmlinux or a bzImage";
    Place::new().refuses(&["--kernel", "a\nb\x1b[0m"], 20, message);
}

fn rvm(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rvm")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_command_that_does_not_exist() {
    let (status, out, error) = rvm(&["fly"]);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert_eq!(error, "rvm: unrecognized subcommand 'fly'; --help lists what can be given\n");
}

#[test]
fn no_command_at_all_is_answered_with_the_help() {
    let (status, out, error) = rvm(&[]);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(error.contains("Usage: rvm <COMMAND>"), "{error}");
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, part) in [
        (&["--help"][..], "Boot a virtual machine"),
        (&["boot", "--help"], "--print-config"),
        (&["--version"], concat!("rvm ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let (status, out, error) = rvm(arguments);
        assert_eq!((status, error.as_str()), (Some(0), ""));
        assert!(out.contains(part), "{out}");
    }
}
