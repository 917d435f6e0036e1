//! Kernel command lines that cannot be.

use crate::place::Place;

/// What rvm puts before the user's words, and the blank after it.
const OURS: usize = rvm::boot::DEFAULT_CMDLINE.len() + 1;

#[test]
fn one_that_is_too_long() {
    let place = Place::new();
    let message = "kernel command line of 2048 bytes is too long: at most 2047; shorten it";
    place.refuses(&["--cmdline", &"x".repeat(2048)], 73, message);
    let message = "kernel command line of 2048 bytes, rvm's own part included, is too long: at most 2047; shorten it, \
                   or leave out rvm's part with --bare-cmdline";
    place.refuses(&["--cmdline", &"x".repeat(2048 - OURS)], 73, message);
    place.refuses(&["--cmdline", "--", "--", &"x".repeat(2048 - OURS - "-- ".len())], 73, message);
}

#[test]
fn one_with_what_it_cannot_carry() {
    let place = Place::new();
    for (cmdline, at) in [("é", 0), ("a\nb", 1), ("a\tb", 1), ("abc\x7f", 3)] {
        let message = format!(
            "kernel command line has a character at byte {at} that is not printable ASCII; leave it out"
        );
        place.refuses(&["--cmdline", cmdline], 73, &message);
    }
}

#[test]
fn a_command_with_what_it_cannot_carry() {
    let place = Place::new();
    for argument in ["é", "a\"b", "a\nb", "--"] {
        let message = format!(
            "cannot pass the argument {argument:?} to the guest's command: the kernel command line takes printable ASCII \
             without double quotes, and no '--' alone; put the command into a script in the guest"
        );
        place.refuses(&["--", "echo", argument], 73, &message);
    }
}

#[test]
fn a_command_with_too_many_arguments() {
    let message = "cannot pass 32 arguments to the guest's command: the kernel hands over at most 31; put the command \
                   into a script in the guest";
    Place::new().refuses(&[["--"].as_slice(), &["x"; 32]].concat(), 73, message);
}
