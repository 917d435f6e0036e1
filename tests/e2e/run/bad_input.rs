//! Bad input: each gets one line that says what was attempted, on what, and why, with the status that Docker has for it
//! (125: rvm could not; 126: the command cannot be run; 127: there is none), and leaves nothing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use rvm_tests::oci::{Layer, Layout};
use serde_json::json;

use super::place::{Place, image};

#[test]
fn images_that_are_not_there() {
    let place = Place::empty();
    let (registry, _) =
        image("busybox").rsplit_once('/').map(|(host, name)| (host.to_owned(), name.to_owned())).unwrap();
    if registry.starts_with("oci:") {
        return rvm_tests::cannot_run("there is no registry on this machine");
    }
    let before = place.traces();
    let nothing = format!("{registry}/no-such-image");
    place.refuses(&["run", &nothing, "true"], 125, "no-such-image");
    place.refuses(&["pull", &nothing], 1, "no-such-image");
    let tag = format!("{registry}/busybox:no-such-tag");
    place.refuses(&["run", &tag, "true"], 125, "no-such-tag");
    let digest = format!("{registry}/busybox@sha256:{:064}", 7);
    place.refuses(&["run", &digest, "true"], 125, "sha256:0000");
    // Nobody listens there.
    place.refuses(&["run", "localhost:1/busybox", "true"], 125, "localhost:1");
    place.refuses(&["run", "--pull", "never", &format!("{registry}/busybox"), "true"], 125, "busybox");
    place.refuses(&["run", "Not/An/Image", "true"], 125, "Not/An/Image");
    place.refuses(&["run", "oci:no-such-directory", "true"], 125, "no-such-directory");
    place.refuses(&["run", "docker-archive:no-such-file", "true"], 125, "no-such-file");
    place.refuses(&["run", "dir:no-such-directory", "true"], 125, "no-such-directory");
    assert_eq!(place.traces(), before);
}

#[test]
fn images_that_cannot_run() {
    let place = Place::empty();
    let mut layout = Layout::new(&place.path("work/layout")).unwrap();
    let busybox = Layer::busybox().unwrap();
    layout.add("silent", &[&busybox], &json!({})).unwrap();
    layout.add_for("arm64", "foreign", &[&busybox], &json!({ "Cmd": ["true"] })).unwrap();
    let silent = layout.reference("silent");
    let before = place.traces();
    place.refuses(&["run", &silent], 125, "no command");
    place.refuses(&["run", &layout.reference("foreign")], 125, "arm64");
    place.refuses(&["run", &layout.reference("no-such-tag"), "true"], 125, "no-such-tag");
    assert_eq!(place.traces(), before);
}

#[test]
fn commands_that_cannot_run() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    // The header of a program for ARM: class, byte order, type and machine of elf(5).
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(64, 0);
    program[16] = 2;
    program[18] = 183;
    let foreign = place.path("work/foreign");
    fs::write(&foreign, program).unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
    let before = place.traces();
    for (command, status) in [
        ("no-such-command", 127),
        ("/no/such/file", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
        ("/work/foreign", 126),
    ] {
        place.refuses(
            &["run", "--rm", "--network", "none", "-v", ".:/work", &busybox, command],
            status,
            command,
        );
    }
    place.refuses(&["run", "--rm", "-u", "nobody-knows", &busybox, "true"], 125, "nobody-knows");
    assert_eq!(place.traces(), before);
}

#[test]
fn flags_that_cannot_be_obeyed() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let before = place.traces();
    for (flags, words) in [
        (["--cpus", "0"], "--cpus"),
        (["--cpus", "1000"], "--cpus"),
        (["-m", "1M"], "1 MiB"),
        (["-m", "much"], "much"),
        (["-m", "1000T"], "1000 TiB"),
        (["-v", "/no/such/directory:/data"], "/no/such/directory"),
        (["-v", "relative:path"], "relative:path"),
        (["-p", "70000:1"], "70000"),
        (["-p", "1:2/sctp"], "sctp"),
        (["--network", "host"], "host"),
        (["--network", "no-such-network"], "no-such-network"),
        (["--cap-add", "FLY"], "FLY"),
        (["--ulimit", "files"], "files"),
        (["--security-opt", "apparmor=x"], "apparmor"),
        (["--security-opt", "seccomp=/no/such/profile"], "/no/such/profile"),
        (["--env-file", "/no/such/variables"], "/no/such/variables"),
        (["--name", "a/b"], "a/b"),
        (["--pull", "sometimes"], "sometimes"),
        (["--privileged", "--rm"], "--privileged"),
        (["--storage-size", "1K"], "1 KiB"),
        (["--sysctl", "kernel"], "kernel"),
        (["--sysctl", "kernel.no_such_parameter=1"], "no_such_parameter"),
    ] {
        place.refuses(&[&["run", "--rm"], flags.as_slice(), &[&busybox, "true"]].concat(), 125, words);
    }
    assert_eq!(place.traces(), before);
}

#[test]
fn names_and_ports_that_are_taken() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    place.said(&["run", "-d", "--name", "first", &busybox, "sleep", "1000"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:80", taken.local_addr().unwrap());
    let before = place.traces();
    place.refuses(&["run", "--name", "first", &busybox, "true"], 125, "first");
    place.refuses(
        &["run", "--rm", "-p", &port, &busybox, "true"],
        125,
        &taken.local_addr().unwrap().to_string(),
    );
    place.refuses(&["run", "--rm", "--network", "none", "-p", "80:80", &busybox, "true"], 125, "network");
    place.refuses(&["rm", "first"], 1, "running");
    assert_eq!(place.traces(), before);

    place.said(&["kill", "first"]);
    place.said(&["wait", "first"]);
    place.refuses(&["exec", "first", "true"], 125, "not running");
    place.refuses(&["exec", "nobody", "true"], 125, "nobody");
    for command in ["stop", "kill", "rm", "pause", "unpause"] {
        place.refuses(&[command, "nobody"], 1, "nobody");
    }
    for command in ["logs", "wait", "inspect", "top", "port"] {
        place.refuses(&[command, "nobody"], 125, "nobody");
    }
}
