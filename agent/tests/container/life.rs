//! From the making of a container to its removal.

use rvm_agent::container::{Error, State};

use crate::bundle::{Bundle, shell, status_of};

#[test]
fn a_program_runs_with_its_streams_and_its_exit_code() {
    let bundle = Bundle::script("read -r line; echo out $line; echo err >&2; exit 7");
    let mut running = bundle.create().unwrap();
    assert_eq!(running.container.state(), State::Created);
    running.container.start().unwrap();
    running.streams.say("in\n");
    let ran = running.end();
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (7, "out in\n", "err\n"));
}

#[test]
fn one_more_process_joins_every_namespace() {
    let namespaces = "cd /proc/self/ns; for ns in cgroup ipc mnt net pid uts; do readlink $ns; done";
    let bundle = Bundle::script(&format!("({namespaces}); echo end; read -r line"));
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    let mut firsts = String::new();
    loop {
        match running.streams.line() {
            line if line == "end" => break,
            line => firsts += &format!("{line}\n"),
        }
    }
    let ran = running.execute(&shell(namespaces));
    assert_eq!(ran.said(), firsts);
    assert_eq!(running.end().status, 1);
}

#[test]
fn a_program_that_is_not_there_is_told_from_one_that_cannot_be_executed() {
    let bundle = Bundle::script("").with("/process/args", serde_json::json!(["nothing"]));
    let mut running = bundle.create().unwrap();
    let err = running.container.start().unwrap_err();
    assert!(matches!(err, Error::NoProgram { ref program } if program == "nothing"), "{err}");
    assert_eq!(status_of(running.container.pid()), 127);
    running.container.delete(false).unwrap();
}
