//! Containers in the background, and the commands for them.

use std::fs;
use std::io::Write;

use serde_json::Value;

use super::place::{Place, image};
use crate::process::run;

/// Counts to its standard output until it is asked to end.
const COUNTER: &str =
    "trap 'echo bye; exit 6' TERM; echo ready >&2; n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done";

/// The only container, as `ps` has it in JSON.
fn listed(place: &Place) -> Value {
    let list: Vec<Value> = serde_json::from_str(&place.said(&["ps", "-a", "--json"])).unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].clone()
}

#[test]
fn a_container_in_the_background_lives_until_it_is_stopped() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let id = place.said(&["run", "-d", "--name", "counter", &image("busybox"), "sh", "-c", COUNTER]);
    let id = id.trim();
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(place.said(&["ps", "-q"]).trim(), &id[..12]);
    let row = listed(&place);
    assert_eq!((&row["name"], &row["id"], &row["phase"]), (&"counter".into(), &id.into(), &"running".into()));

    // It outlives the terminal of its `run`, and writes on.
    let mut logs = place.start(&["logs", "-f", "counter"]);
    logs.out.wait_for("\n5\n");
    logs.error.wait_for("ready\n");

    assert_eq!(place.said(&["stop", "counter"]), "counter\n");
    let ran = logs.end();
    assert_eq!((ran.status, ran.out.ends_with("\nbye\n")), (Some(0), true), "{ran:?}");
    assert_eq!(place.said(&["wait", "counter"]), "6\n");
    assert!(place.said(&["ps", "-a"]).contains("Exited (6)"));
    assert_eq!(place.said(&["ps", "-q"]), "");
    let tail = place.run(&["logs", "--tail", "1", id.get(..5).unwrap()]);
    assert_eq!(tail.out, "bye\n", "{tail:?}");

    assert_eq!(place.processes(), []);
    assert_eq!(place.said(&["rm", "counter"]), "counter\n");
    assert_eq!(place.traces(), before);
}

#[test]
fn more_processes_run_in_it() {
    let place = Place::with(&["busybox"]);
    let script = "echo $SHARED >/tmp/file; exec sleep 1000";
    place.said(&["run", "-d", "--name", "box", "-e", "SHARED=yes", &image("busybox"), "sh", "-c", script]);
    assert_eq!(place.said(&["exec", "box", "sh", "-c", "cat /tmp/file; echo $SHARED"]), "yes\nyes\n");
    let ran = place.run(&[
        "exec",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "-e",
        "MORE=x",
        "box",
        "sh",
        "-c",
        "id -u; pwd; echo $MORE; exit 4",
    ]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(4), "65534\n/tmp\nx\n", ""));
    let mut running = place.start(&["exec", "-i", "box", "wc", "-c"]);
    running.input().write_all(b"twelve bytes").unwrap();
    assert_eq!(running.end().out.trim(), "12");
    place.refuses(&["exec", "box", "no-such-command"], 127, "no-such-command");
    place.refuses(&["exec", "box", "/etc/passwd"], 126, "/etc/passwd");

    assert_eq!(place.said(&["exec", "-d", "box", "sleep", "2000"]), "");
    let top = place.said(&["top", "box"]);
    assert!(top.contains("sleep 1000") && top.contains("sleep 2000"), "{top}");
    let stats = place.said(&["stats", "--no-stream", "box"]);
    let row = stats.lines().nth(1).unwrap();
    assert!(row.contains("box") && row.ends_with(" 2") && row.contains("384"), "{stats}");
    let inspected: Value = serde_json::from_str(&place.said(&["inspect", "box"])).unwrap();
    assert!(inspected.to_string().contains("SHARED=yes"), "{inspected}");
    assert_eq!(place.said(&["rm", "-f", "box"]), "box\n");
}

#[test]
fn a_paused_container_does_nothing_until_it_goes_on() {
    let place = Place::with(&["busybox"]);
    place.said(&["run", "-d", "--name", "counter", &image("busybox"), "sh", "-c", COUNTER]);
    place.start(&["logs", "-f", "counter"]).out.wait_for("\n3\n");
    place.said(&["pause", "counter"]);
    assert_eq!(listed(&place)["phase"], "paused");
    let held = place.run(&["logs", "counter"]).out;
    assert_eq!(listed(&place)["phase"], "paused");
    assert_eq!(place.run(&["logs", "counter"]).out, held);

    place.said(&["unpause", "counter"]);
    let next = held.lines().last().unwrap().parse::<u32>().unwrap() + 1;
    place.start(&["logs", "-f", "counter"]).out.wait_for(&format!("\n{next}\n"));
    assert_eq!(listed(&place)["phase"], "running");
}

#[test]
fn signals_are_sent_and_an_end_that_does_not_come_is_made() {
    let place = Place::with(&["busybox"]);
    let script = "trap '' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done";
    place.said(&["run", "-d", "--name", "deaf", &image("busybox"), "sh", "-c", script]);
    let mut logs = place.start(&["logs", "-f", "deaf"]);
    logs.out.wait_for("up\n");
    place.said(&["kill", "-s", "USR1", "deaf"]);
    logs.out.wait_for("usr1\n");
    let mut wait = place.start(&["wait", "deaf"]);
    place.said(&["stop", "-t", "1", "deaf"]);
    wait.out.wait_for("137\n");
    assert!(place.said(&["ps", "-a"]).contains("Exited (137)"));
}

#[test]
fn files_go_in_and_out() {
    let place = Place::with(&["busybox"]);
    place.said(&["run", "-d", "--name", "box", &image("busybox"), "sleep", "1000"]);
    fs::create_dir_all(place.path("work/tree/below")).unwrap();
    fs::write(place.path("work/tree/below/file"), "content\n").unwrap();
    place.said(&["cp", "tree", "box:/tmp/copy"]);
    place.said(&["cp", "tree/below/file", "box:/tmp/"]);
    assert_eq!(
        place.said(&["exec", "box", "cat", "/tmp/copy/below/file", "/tmp/file"]),
        "content\ncontent\n"
    );
    place.said(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo changed >/tmp/copy/below/file; ln -s /etc/passwd /tmp/copy/link",
    ]);
    place.said(&["cp", "box:/tmp/copy", "back"]);
    assert_eq!(fs::read_to_string(place.path("work/back/below/file")).unwrap(), "changed\n");
    // A link is copied as one; what it leads to is the host's here.
    assert_eq!(fs::read_link(place.path("work/back/link")).unwrap().to_str(), Some("/etc/passwd"));
    let mut archive = place.rvm(&["cp", "box:/tmp/copy/below", "-"]);
    archive.stdout(std::process::Stdio::piped());
    let mut child = archive.spawn().unwrap();
    let mut tar = std::process::Command::new("tar");
    let names = run({
        tar.arg("-t").stdin(child.stdout.take().unwrap());
        tar
    });
    assert_eq!((child.wait().unwrap().code(), names.out.as_str()), (Some(0), "below/\nbelow/file\n"));
    place.refuses(&["cp", "box:/no/such/file", "x"], 125, "/no/such/file");
    place.refuses(&["cp", "no-such-file", "box:/tmp"], 125, "no-such-file");
}
