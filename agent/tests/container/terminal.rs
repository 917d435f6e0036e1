//! Processes with a terminal.

use std::fs::File;
use std::io::{Read, Write};

use oci_spec::runtime::Process;
use rvm_agent::container::{Container, Error, Made, Stdio, WindowSize, resize};
use serde_json::json;

use crate::bundle::{Bundle, new_id, runtime, shell, status_of};

const SIZE: WindowSize = WindowSize { columns: 100, rows: 30 };

/// Makes a container whose first process has a terminal.
fn create(bundle: &Bundle) -> (Container, File) {
    let Made { what, terminal } =
        runtime().create(&new_id(), &bundle.parsed(), Stdio::Terminal(SIZE)).unwrap();
    (what, blocking(terminal.unwrap().into()))
}

/// A terminal's master comes as one that does not block; these tests wait.
fn blocking(master: File) -> File {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR)).unwrap();
    master
}

/// All that is said until the terminal is closed.
fn read(mut master: &File) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    // The kernel ends it with EIO.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        said.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn the_first_process_has_a_terminal_of_the_size_asked_for() {
    let script = "tty; stty size; stat -c %u /dev/pts/0; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all
        stat -c %t:%T /dev/console; echo -n mine > /dev/tty";
    let bundle = Bundle::script(script)
        .with("/process/terminal", json!(true))
        .with("/process/user", json!({"uid": 1000, "gid": 1000}));
    let (mut container, master) = create(&bundle);
    container.start().unwrap();
    assert_eq!(read(&master), "/dev/pts/0\r\n30 100\r\n1000\r\nall\r\n88:0\r\nmine");
    assert_eq!(status_of(container.pid()), 0);
    container.delete(false).unwrap();
}

#[test]
fn without_another_size_the_specifications_holds() {
    let bundle = Bundle::script("stty size")
        .with("/process/terminal", json!(true))
        .with("/process/consoleSize", json!({"width": 77, "height": 22}));
    let stdio = Stdio::Terminal(WindowSize::default());
    let Made { what: mut container, terminal } =
        runtime().create(&new_id(), &bundle.parsed(), stdio).unwrap();
    container.start().unwrap();
    assert_eq!(read(&blocking(terminal.unwrap().into())), "22 77\r\n");
    assert_eq!(status_of(container.pid()), 0);
    container.delete(false).unwrap();
}

#[test]
fn keys_are_signals_and_a_new_size_is_told() {
    let script = "trap 'stty size; exit 3' WINCH; trap 'echo interrupted' INT; echo ready
        while :; do read -r line; done";
    let bundle = Bundle::script(script).with("/process/terminal", json!(true));
    let (mut container, mut master) = create(&bundle);
    container.start().unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains("ready") {
        master.read_exact(&mut byte).unwrap();
        said.push(byte[0].into());
    }
    master.write_all(b"\x03").unwrap();
    while !said.contains("interrupted") {
        master.read_exact(&mut byte).unwrap();
        said.push(byte[0].into());
    }
    resize(&master, WindowSize { columns: 81, rows: 26 }).unwrap();
    let rest = read(&master);
    assert!(rest.contains("26 81"), "{rest}");
    assert_eq!(status_of(container.pid()), 3);
    container.delete(false).unwrap();
}

#[test]
fn one_more_process_has_a_terminal_of_its_own() {
    let bundle = Bundle::script("echo; read -r line");
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    running.streams.line();
    let mut process = shell("tty; stty size");
    process["terminal"] = json!(true);
    let process: Process = serde_json::from_value(process).unwrap();
    let Made { what, terminal } = running.container.exec(&process, Stdio::Terminal(SIZE)).unwrap();
    assert_eq!(read(&blocking(terminal.unwrap().into())), "/dev/pts/0\r\n30 100\r\n");
    assert_eq!(status_of(what.pid()), 0);
    running.end();
}

#[test]
fn a_terminal_is_only_taken_from_a_devpts() {
    let mounts = json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []}]);
    let bundle = Bundle::script("").with("/process/terminal", json!(true)).with("/mounts", mounts);
    let err = runtime().create(&new_id(), &bundle.parsed(), Stdio::Terminal(SIZE)).unwrap_err();
    let expected = "make a terminal in the container's /dev/pts";
    assert!(matches!(err, Error::Kernel { ref step, .. } if step == expected), "{err}");
}

#[test]
fn specification_and_streams_have_to_agree() {
    let bundle = Bundle::script("");
    let err = runtime().create(&new_id(), &bundle.parsed(), Stdio::Terminal(SIZE)).unwrap_err();
    assert!(matches!(err, Error::Invalid { ref field, .. } if field == "process.terminal"), "{err}");
    let bundle = bundle.with("/process/terminal", json!(true));
    assert!(matches!(bundle.refused(), Error::Invalid { .. }));
}
