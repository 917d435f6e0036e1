//! From the making of a container to its removal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rvm_agent::container::{Error, State};

use crate::bundle::{Bundle, Running, new_id, pipes, runtime, shell, status_of};

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

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    for (program, mode, content, errno) in [
        ("/etc/text", 0o644, "#!/bin/sh\n", 13),
        ("/etc/garbage", 0o755, "\x7fELF garbage", 8),
        ("/etc", 0o755, "", 13),
    ] {
        let bundle = Bundle::script("").with("/process/args", serde_json::json!([program]));
        if program != "/etc" {
            let path = bundle.root().join(program.trim_start_matches('/'));
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut running = bundle.create().unwrap();
        let err = running.container.start().unwrap_err();
        let Error::NotExecutable { reason, .. } = err else { panic!("{program}: {err}") };
        assert_eq!(reason.raw_os_error(), Some(errno), "{program}");
        assert_eq!(running.end().status, 126);
    }
}

#[test]
fn a_process_that_cannot_be_executed_leaves_the_container_running() {
    let bundle = Bundle::script("read -r line");
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    let mut process = shell("");
    process["args"] = serde_json::json!(["nothing"]);
    let process = serde_json::from_value(process).unwrap();
    let err = running.container.exec(&process, pipes().0).unwrap_err();
    assert!(matches!(err, Error::NoProgram { .. }), "{err}");
    assert_eq!(running.container.state(), State::Running);
    running.streams.say("end\n");
    assert_eq!(running.end().status, 0);
}

#[test]
fn a_name_is_taken_until_its_container_is_deleted() {
    let bundle = Bundle::script("");
    let id = new_id();
    let mut first = runtime().create(&id, &bundle.parsed(), pipes().0).unwrap().what;
    let err = runtime().create(&id, &bundle.parsed(), pipes().0).unwrap_err();
    assert!(matches!(err, Error::Exists(ref name) if *name == id), "{err}");
    first.delete(true).unwrap();
    assert_eq!(status_of(first.pid()), 137);
    let mut second = runtime().create(&id, &bundle.parsed(), pipes().0).unwrap().what;
    second.delete(true).unwrap();
    status_of(second.pid());
}

#[test]
fn what_a_state_does_not_allow_is_refused() {
    let bundle = Bundle::script("read -r line");
    let mut running = bundle.create().unwrap();
    let process = serde_json::from_value(shell("true")).unwrap();
    let state = |result: Result<(), Error>| match result {
        Err(Error::State { state, .. }) => state,
        result => panic!("{result:?}"),
    };
    let Running { container, .. } = &mut running;
    assert_eq!(state(container.exec(&process, pipes().0).map(drop)), State::Created);
    assert_eq!(state(container.pause()), State::Created);
    assert_eq!(state(container.delete(false)), State::Created);
    container.start().unwrap();
    assert_eq!(state(container.start()), State::Running);
    assert_eq!(state(container.delete(false)), State::Running);
    container.pause().unwrap();
    assert_eq!(state(container.exec(&process, pipes().0).map(drop)), State::Paused);
    container.signal(9).unwrap();
    assert_eq!(status_of(container.pid()), 137);
    assert_eq!(container.state(), State::Stopped);
    assert_eq!(state(container.resume()), State::Stopped);
    assert_eq!(state(container.exec(&process, pipes().0).map(drop)), State::Stopped);
    // To a process that ended: no error.
    container.signal(9).unwrap();
    container.delete(false).unwrap();
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    let bundle = Bundle::script("read -r line; echo $line");
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    running.container.resume().unwrap();
    for _ in 0..2 {
        running.container.pause().unwrap();
    }
    let events = fs::read_to_string(running.container.cgroup().join("cgroup.events")).unwrap();
    assert!(events.contains("frozen 1"), "{events}");
    running.streams.say("on\n");
    assert_eq!(running.container.state(), State::Paused);
    running.container.resume().unwrap();
    assert_eq!(running.end().said(), "on\n");
}

#[test]
fn every_process_is_listed_and_reached_by_a_signal() {
    let script =
        "trap 'echo first; exit 0' TERM; sh -c \"trap 'echo second; exit 0' TERM; echo up; sleep 1000 & wait\" &
        read -r line; wait";
    let bundle = Bundle::script(script);
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    assert_eq!(running.streams.line(), "up");
    let processes = running.container.processes().unwrap();
    assert!(processes.len() >= 2 && processes.contains(&running.container.pid()), "{processes:?}");
    running.container.signal_all(15).unwrap();
    running.container.signal_all(9).unwrap();
    assert!(running.container.processes().unwrap().is_empty());
    status_of(running.container.pid());
    running.container.delete(false).unwrap();
}

#[test]
fn nothing_of_a_container_is_left() {
    let bundle = Bundle::script("sleep 1000 & read -r line");
    let namespaces = serde_json::json!([{"type": "mount"}]);
    // Without a pid namespace the end of the first process leaves the others.
    let mut bundle = bundle.with("/linux/namespaces", namespaces).with("/mounts", serde_json::json!([]));
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let mut running = bundle.create().unwrap();
    let group = running.container.cgroup().to_owned();
    running.container.start().unwrap();
    running.streams.say("end\n");
    status_of(running.container.pid());
    running.container.delete(false).unwrap();
    assert!(!group.exists());
}

#[test]
fn hooks_run_in_the_container_before_the_program() {
    let hook = serde_json::json!([
        {"path": "/bin/sh", "args": ["sh", "-c", "cat > /state; echo $A > /env"], "env": ["A=b", "PATH=/bin"]},
    ]);
    let bundle = Bundle::script("cat /env; grep -c '\"status\":\"created\"' /state")
        .with("/hooks", serde_json::json!({"startContainer": hook}));
    assert_eq!(bundle.run().said(), "b\n1\n");
}

#[test]
fn a_hook_that_fails_or_takes_too_long_fails_the_start() {
    for (args, timeout) in [(["sh", "-c", "exit 1"], None), (["sh", "-c", "sleep 1000"], Some(1))] {
        let hook =
            serde_json::json!([{"path": "/bin/sh", "args": args, "env": ["PATH=/bin"], "timeout": timeout}]);
        let bundle = Bundle::script("echo never").with("/hooks", serde_json::json!({"startContainer": hook}));
        let mut running = bundle.create().unwrap();
        let err = running.container.start().unwrap_err();
        assert!(matches!(err, Error::Kernel { ref step, .. } if step == "run the hook /bin/sh"), "{err}");
        let ran = running.end();
        assert_eq!((ran.status, ran.out.as_str()), (125, ""));
    }
}
