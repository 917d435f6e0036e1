//! Files and streams of the user's that cannot be written to.

use std::fs::File;
use std::process::Stdio;

use crate::place::Place;

#[test]
fn a_console_file_that_cannot_be_made() {
    let place = Place::new();
    let message = "cannot write the console to 'missing/file': No such file or directory (os error 2); give the path of a \
                   file, in a directory that exists, that you may write to";
    place.refuses(&["--console", "file=missing/file"], 75, message);
    let message = "cannot write the console to 'guest': Is a directory (os error 21); give the path of a file, in a \
                   directory that exists, that you may write to";
    place.refuses(&["--console", "file=guest"], 75, message);
}

#[test]
fn a_trace_file_that_cannot_be_made() {
    let message = "cannot write the trace to 'missing/file': No such file or directory (os error 2); give the path of a \
                   file, in a directory that exists, that you may write to";
    Place::new().refuses(&["--timing=missing/file"], 75, message);
}

#[test]
fn files_of_a_vm_that_is_not_made_are_as_they_were() {
    let place = Place::new();
    place.file("k", "no kernel");
    place.file("old", "the console of another VM");
    let message = "cannot boot kernel 'k': it is no kernel; give the path of an ELF vmlinux or a bzImage";
    for (console, trace) in [("file=old", "--timing=new"), ("file=new", "--timing=old")] {
        place.refuses(&["--kernel", "k", "--console", console, trace], 23, message);
    }
}

#[test]
fn a_closed_standard_output_is_no_bug() {
    let place = Place::new();
    let closed = || {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        write
    };
    let status = place.boot(&["--print-config"]).stdout(closed()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let status = place.boot(&["--kernel", "missing"]).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(20));
    let status = place.boot(&["--bogus"]).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let mut doctor = place.command(env!("CARGO_BIN_EXE_rvm"));
    let status = doctor.arg("doctor").stdout(closed()).status().unwrap();
    assert!([0, 10, 11, 12, 13].map(Some).contains(&status.code()), "{status}");
}

#[test]
fn a_full_standard_output_is_told() {
    let place = Place::new();
    let mut command = place.boot(&["--print-config"]);
    command.stdout(Stdio::from(File::options().write(true).open("/dev/full").unwrap()));
    place.command_refuses(
        command,
        75,
        "cannot print the configuration: No space left on device (os error 28)",
    );
}
