//! `ctr tasks`: what can be done with a container that runs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::place::{BUSYBOX, Place, RUNTIME, logged};
use crate::traces::parent;

#[test]
fn a_task_is_listed_executed_in_paused_measured_and_killed() {
    let Some(place) = Place::new("tasks") else { return };
    place.detached(&[], "measured", &["sleep", "1000"]);
    let (pid, state) = place.task("measured");
    assert_eq!(state, "RUNNING");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(program.ends_with("rvm"), "the task's process is the VMM: {}", program.display());
    // What it uses is the container's on the host, too.
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(group, "0::/tasks/measured\n");
    // It can name no other process, and has no file of the host but its container's.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("NSpid:\t{pid}\t1\n")), "{status}");
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let others: Vec<_> = points.filter(|path| *path != "/" && !path.starts_with("/1")).collect();
    assert_eq!(others, ["/2", "/3"], "its descriptors, and its sockets: {mounts}");
    assert!(place.said(&["tasks", "ps", "measured"]).contains(&pid.to_string()));

    let ran = place.run(&[
        "tasks",
        "exec",
        "--exec-id",
        "e1",
        "measured",
        "sh",
        "-c",
        "echo in; echo err >&2; exit 4",
    ]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.trim_end()), (Some(4), "in\n", "err"), "{ran:?}");

    place.said(&["tasks", "pause", "measured"]);
    assert_eq!(place.task("measured").1, "PAUSED");
    place.said(&["tasks", "resume", "measured"]);
    assert_eq!(place.task("measured").1, "RUNNING");

    // One is killed, and no other; then all but the first, which like any first process ends by SIGKILL alone.
    let ready = |id: &str| {
        let script = ["measured", "sh", "-c", "echo up; exec sleep 2000"];
        let mut running = place.start(&[&["tasks", "exec", "--exec-id", id][..], &script].concat());
        running.out.wait_for("up\n");
        running
    };
    let [one, other, third] = ["e2", "e3", "e4"].map(ready);
    place.said(&["tasks", "kill", "--exec-id", "e2", "--signal", "SIGKILL", "measured"]);
    assert_eq!(one.end().status, Some(137));
    let processes = place.said(&["tasks", "exec", "--exec-id", "e5", "measured", "ps"]);
    assert_eq!(processes.matches("sleep 2000").count(), 2, "{processes}");
    place.said(&["tasks", "kill", "--all", "--signal", "SIGTERM", "measured"]);
    assert_eq!([other, third].map(|exec| exec.end().status), [Some(143); 2]);
    assert_eq!(place.task("measured").1, "RUNNING");

    let metrics = || -> serde_json::Value {
        let metrics = place.said(&["tasks", "metrics", "--format", "json", "measured"]);
        serde_json::from_str(&metrics).unwrap()
    };
    let before = metrics();
    assert_eq!(before["pids"]["current"], 1, "{before}");
    assert!(before["memory"]["usage"].as_u64().unwrap() > 0, "{before}");
    let work = "i=0; while [ $i -lt 10000 ]; do i=$((i + 1)); done";
    place.said(&["tasks", "exec", "--exec-id", "e6", "measured", "sh", "-c", work]);
    let after = metrics();
    let used = |metrics: &serde_json::Value| metrics["cpu"]["usage_usec"].as_u64().unwrap();
    assert!(used(&after) > used(&before) + 2000, "a loop of the shell's takes more: {before}, {after}");

    // The shim with one container, and what it says of it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", parent(pid))).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    let kib: u64 = resident.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kib <= 8 << 10, "{resident}");
    let line = logged("measured", "the container was started");
    if line.starts_with("level=info") {
        assert!(line.ends_with(" runtime=rvm sandbox=measured container=measured"), "{line}");
    }

    let ran = place.run(&["tasks", "checkpoint", "measured"]);
    assert!(ran.status != Some(0) && ran.error.contains("rvm does not support checkpoints"), "{ran:?}");
    assert_eq!(place.task("measured").1, "RUNNING");

    place.said(&["tasks", "kill", "--signal", "SIGKILL", "measured"]);
    place.wait_for("measured", "STOPPED");
    let ran = place.run(&["tasks", "rm", "measured"]);
    assert!(ran.error.contains("non-zero exit code 137"), "{ran:?}");
    place.said(&["containers", "rm", "measured"]);
    place.leaves_nothing();
}

#[test]
fn a_client_that_attaches_later_has_the_output() {
    let Some(place) = Place::new("attach") else { return };
    let script = "echo first; while ! [ -e /go ]; do sleep 0.1; done; echo second; exit 6";
    place.detached(&[], "c1", &["sh", "-c", script]);
    let mut attached = place.start(&["tasks", "attach", "c1"]);
    attached.out.wait_for("first\n");
    place.said(&["tasks", "exec", "--exec-id", "e1", "c1", "touch", "/go"]);
    let ran = attached.end();
    assert_eq!((ran.status, ran.out.ends_with("second\n")), (Some(6), true), "{ran:?}");
    // The client that is attached removes the task that has ended.
    place.said(&["containers", "rm", "c1"]);
    place.leaves_nothing();
}

#[test]
fn events_come_in_their_order_and_once() {
    let Some(place) = Place::new("events") else { return };
    let mut events = place.start(&["events"]);
    // When it hears of one thing, it hears of everything after it.
    let heard = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for label in 0.. {
                place.said(&["images", "label", BUSYBOX, &format!("label={label}")]);
                if heard.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        events.out.wait_for(" events /images/update");
        heard.store(true, Ordering::Relaxed);
    });
    let script = "tail /dev/zero 2>/dev/null; until [ -e /go ]; do sleep 0.1; done";
    place.detached(&["--memory-limit", "33554432"], "c1", &["sh", "-c", script]);
    let first = events.out.wait_for(" events /tasks/oom");
    place.said(&["tasks", "exec", "--exec-id", "e1", "c1", "touch", "/go"]);
    place.wait_for("c1", "STOPPED");
    place.said(&["tasks", "rm", "c1"]);
    let seen = events.out.wait_for(" events /tasks/delete");
    let topic =
        |line: &str| Some(line.split_once(" events /tasks/")?.1.split_whitespace().next()?.to_owned());
    let topics: Vec<_> = first.lines().chain(seen.lines()).filter_map(topic).collect();
    let order = ["create", "start", "exec-added", "exec-started", "exit", "exit"];
    assert_eq!(topics, order, "{first}, out of memory, {seen}");
    place.said(&["containers", "rm", "c1"]);
}

#[test]
fn containers_of_a_pod_share_its_shim_and_its_machine() {
    let Some(place) = Place::new("pod") else { return };
    let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=c1"];
    place.detached(&[], "c1", &["sleep", "1000"]);
    place.detached(&pod, "c2", &["sleep", "1000"]);
    assert_eq!(place.task("c1").0, place.task("c2").0);
    let processes = place.said(&["tasks", "exec", "--exec-id", "e1", "c2", "ps"]);
    assert_eq!(processes.matches("sleep 1000").count(), 1, "{processes}");
    place.remove("c2");
    assert_eq!(place.task("c1").1, "RUNNING");
    let ran = place.run(&["run", "--rm", "--runtime", RUNTIME, BUSYBOX, "c3", "echo", "beside"]);
    assert_eq!(ran.out, "beside\n", "{ran:?}");
    place.remove("c1");
    place.leaves_nothing();
}
