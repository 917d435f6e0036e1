//! A container whose streams and status are those of `rvm run`.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::place::{Place, image};

#[test]
fn a_command_has_its_output_and_status_and_leaves_nothing() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let before = place.traces();

    let ran = place.run(&["run", "--rm", &busybox, "echo", "hello"]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "hello\n", ""));
    let ran = place.run(&["run", "--rm", &busybox, "sh", "-c", "echo out; echo error >&2; exit 7"]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(7), "out\n", "error\n"));
    // A signal is 128 and its number, as every shell has it. Of a container's first process the kernel keeps those away
    // that it does not wait for.
    let ran =
        place.run(&["run", "--rm", &busybox, "sh", "-c", "kill -USR1 $$; sh -c 'kill -USR1 $$'; exit $?"]);
    assert_eq!(ran.status, Some(128 + 10), "{ran:?}");

    assert_eq!(place.traces(), before);
    assert_eq!(place.said(&["ps", "-aq"]), "");
}

#[test]
fn what_is_written_arrives_whole_and_in_order() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    // More than every buffer on the way; every line is another.
    let mut running =
        place.start(&["run", "--rm", "-i", &busybox, "sh", "-c", "cat; seq 1 20000 >&2; exit 3"]);
    let mut input = running.input();
    let lines: String = (1..=200_000).map(|number| format!("line {number}\n")).collect();
    let sent = lines.clone();
    let writer = std::thread::spawn(move || input.write_all(sent.as_bytes()).unwrap());

    let ran = running.end();
    writer.join().unwrap();

    assert_eq!(ran.status, Some(3));
    assert!(ran.out == lines, "{} of {} bytes came back", ran.out.len(), lines.len());
    let error: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(ran.error == error, "{} of {} bytes of standard error", ran.error.len(), error.len());
}

#[test]
fn what_is_read_after_the_end_is_whole() {
    let place = Place::with(&["busybox"]);
    // As much as waits in pipes and sockets while nobody reads, and more than fits beyond the supervisor.
    let script = "yes 1234567 | head -c 480000; exit 4";
    let running = place.start(&["run", "--name", "late", &image("busybox"), "sh", "-c", script]);
    // As soon as there is a container of this name, it is waited for.
    let waited = std::iter::repeat_with(|| place.run(&["wait", "late"])).find(|ran| ran.status == Some(0));
    assert_eq!(waited.unwrap().out, "4\n");
    assert_eq!(place.said(&["ps", "-q"]), "");
    place.said(&["rm", "late"]);
    let ran = running.end();
    assert_eq!((ran.status, ran.out), (Some(4), "1234567\n".repeat(60_000)));
}

#[test]
fn bytes_are_not_changed_on_their_way() {
    let place = Place::with(&["busybox"]);
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let mut command = place.rvm(&["run", "--rm", "-i", &image("busybox"), "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(received == bytes, "{} bytes came back", received.len());
}

#[test]
fn standard_input_is_the_commands_only_with_i_and_may_close_early() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let mut without = place.start(&["run", "--rm", &busybox, "sh", "-c", "wc -c"]);
    // Nobody reads it.
    without.input().write_all(b"not for you").ok();
    assert_eq!(without.end().out.trim(), "0");

    // The command ends first; its standard input is not at its end.
    let mut early = place.start(&["run", "--rm", "-i", &busybox, "head", "-c", "3"]);
    let mut input = early.input();
    input.write_all(b"abcdef").unwrap();
    let ran = early.end();
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "abc", ""));
    drop(input);
}

#[test]
fn signals_of_rvm_are_the_commands() {
    let place = Place::with(&["busybox"]);
    let trap =
        "trap 'echo terminated; exit 5' TERM; trap 'echo hung up' HUP; echo up; while :; do sleep 0.1; done";
    let mut running = place.start(&["run", "--rm", &image("busybox"), "sh", "-c", trap]);
    running.out.wait_for("up\n");
    running.signal(Signal::SIGHUP);
    running.out.wait_for("hung up\n");
    running.signal(Signal::SIGTERM);
    let ran = running.end();
    assert_eq!((ran.status, ran.out.ends_with("terminated\n")), (Some(5), true), "{ran:?}");
}

#[test]
fn output_that_nobody_reads_ends_rvm_and_the_container() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let mut running = place.start(&["run", "--rm", &image("busybox"), "yes"]);
    running.out.wait_for("y\n");
    running.close_output();
    let ran = running.end();
    assert!(ran.status != Some(0), "{ran:?}");
    assert_eq!(place.said(&["ps", "-aq"]), "");
    assert_eq!(place.traces(), before);
}
