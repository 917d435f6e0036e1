//! `linux.resources` in the files of the container's group, and in what its processes can do.
//!
//! A test that needs a controller which this machine's cgroup v2 does not have says so and ends; the guest's has all.

use std::fs;
use std::io::Read;

use rvm_agent::container::State;
use serde_json::json;

use crate::bundle::{Bundle, cgroups, status_of};

/// Whether containers' groups have the files of this controller.
fn has(controller: &str) -> bool {
    let there = fs::read_to_string(cgroups().join("cgroup.controllers")).unwrap();
    let has = there.split_whitespace().any(|name| name == controller);
    if !has {
        println!("\nrvm-tests: cannot run: cgroup v2 of this machine has no controller {controller}");
    }
    has
}

/// A device that no container has by itself; whoever may use it can open it.
const OWN: &str = "/dev/loop-control";

fn own_device() -> serde_json::Value {
    json!([{"path": OWN, "type": "c", "major": 10, "minor": 237}])
}

fn own_rule(allow: bool) -> serde_json::Value {
    json!({"allow": allow, "type": "c", "major": 10, "minor": 237, "access": "rw"})
}

#[test]
fn only_the_devices_of_the_rules_can_be_used() {
    let script = "echo > /dev/null; head -c 1 /dev/zero | cat -v; mknod /another c 10 237
        for file in /dev/loop-control /another; do (: < $file) && echo opened; done; echo full > /dev/full";
    let bundle = Bundle::script(script).with("/linux/devices", own_device());
    let ran = bundle.run();
    let denied = ran.err.lines().filter(|line| line.contains("Operation not permitted")).count();
    assert_eq!((ran.out.as_str(), denied), ("^@", 2), "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");

    fs::remove_file(bundle.root().join("another")).unwrap();
    let read_only = json!({"allow": true, "type": "c", "major": 10, "minor": 237, "access": "r"});
    let bundle =
        bundle.with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}, read_only]));
    assert_eq!(bundle.run().out, "^@opened\nopened\n");
    let bundle = bundle.with("/process/args", json!(["sh", "-c", ": > /dev/loop-control"]));
    assert!(bundle.run().err.contains("Operation not permitted"));
}

#[test]
fn a_later_rule_for_a_device_wins() {
    for (first, second, readable) in [(true, false, false), (false, true, true)] {
        let bundle = Bundle::script(": < /dev/loop-control")
            .with("/linux/devices", own_device())
            .with("/linux/resources/devices", json!([own_rule(first), own_rule(second)]));
        assert_eq!(bundle.run().status == 0, readable, "{first} {second}");
    }
}

#[test]
fn everything_is_allowed_where_the_rules_say_so() {
    let bundle = Bundle::script(": < /dev/loop-control; echo > /dev/null")
        .with("/linux/devices", own_device())
        .with("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
    assert_eq!(bundle.run().said(), "");
}

#[test]
fn devices_can_be_allowed_and_denied_later() {
    let script = "while read -r line; do (: < /dev/loop-control) 2>&- && echo yes || echo no; done";
    let bundle = Bundle::script(script).with("/linux/devices", own_device());
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    let mut said = Vec::new();
    for allow in [None, Some(true), Some(false)] {
        if let Some(allow) = allow {
            let rules = json!({"devices": [own_rule(allow)]});
            running.container.update(&serde_json::from_value(rules).unwrap()).unwrap();
        }
        running.streams.say("\n");
        said.push(running.streams.line());
    }
    assert_eq!(said, ["no", "yes", "no"]);
    running.end();
}

/// A file of the container's group.
fn group_file(bundle: &Bundle, file: &str) -> String {
    let running = bundle.create().unwrap();
    let value = fs::read_to_string(running.container.cgroup().join(file)).unwrap();
    running.end_by_force();
    value.trim().to_owned()
}

#[test]
fn limits_are_in_the_files_of_the_group() {
    for (controller, resources, file, expected) in [
        ("memory", json!({"memory": {"limit": 67_108_864}}), "memory.max", "67108864"),
        ("memory", json!({"memory": {"reservation": 33_554_432}}), "memory.low", "33554432"),
        ("cpu", json!({"cpu": {"quota": 50_000, "period": 100_000}}), "cpu.max", "50000 100000"),
        ("cpu", json!({"cpu": {"shares": 1024}}), "cpu.weight", "100"),
        ("cpu", json!({"cpu": {"idle": 1}}), "cpu.idle", "1"),
        ("cpuset", json!({"cpu": {"cpus": "0"}}), "cpuset.cpus", "0"),
        ("pids", json!({"pids": {"limit": 20}}), "pids.max", "20"),
        ("memory", json!({"unified": {"memory.oom.group": "1"}}), "memory.oom.group", "1"),
    ] {
        if has(controller) {
            let bundle = Bundle::script("").with("/linux/resources", resources);
            assert_eq!(group_file(&bundle, file), expected, "{file}");
        }
    }
}

#[test]
fn a_container_that_fills_its_memory_is_ended_and_that_is_told() {
    if !has("memory") {
        return;
    }
    let limits = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let bundle = Bundle::script("")
        .with("/linux/resources", limits)
        .with("/process/args", json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"]));
    let mut running = bundle.create().unwrap();
    let events = running.container.memory_events().unwrap();
    assert_eq!(running.container.out_of_memory_kills().unwrap(), 0);
    running.container.start().unwrap();
    assert_eq!(status_of(running.container.pid()), 137);
    assert_eq!(running.container.out_of_memory_kills().unwrap(), 1);
    let mut text = String::new();
    fs::File::from(events).read_to_string(&mut text).unwrap();
    assert!(text.contains("oom_kill 1"), "{text}");
    let stats = running.container.stats().unwrap();
    assert_eq!((stats.memory.oom_kills, stats.memory.limit_bytes), (1, Some(16_777_216)));
    assert_eq!(running.container.state(), State::Stopped);
    running.container.delete(false).unwrap();
}

#[test]
fn a_container_that_forks_without_end_is_stopped_by_its_limit() {
    if !has("pids") {
        return;
    }
    let limits = json!({"pids": {"limit": 10}});
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done";
    let bundle = Bundle::script(script).with("/linux/resources", limits);
    let ran = bundle.run();
    assert!(ran.status != 0 && ran.err.contains("can't fork"), "{ran:?}");
}

#[test]
fn use_is_counted() {
    let bundle = Bundle::script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo; read -r line");
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    running.streams.line();
    let stats = running.container.stats().unwrap();
    assert!(stats.cpu.usage_us > 0, "{stats:?}");
    if has("memory") {
        assert!(stats.memory.current_bytes > 0 && stats.memory.limit_bytes.is_none(), "{stats:?}");
    }
    if has("pids") {
        assert_eq!((stats.pids.current, stats.pids.limit), (1, None));
    }
    running.end();
}
