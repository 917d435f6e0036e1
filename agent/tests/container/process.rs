//! What a process of a container is: `process` of the specification, seen from inside.

use serde_json::json;

use crate::bundle::{Bundle, Ran, shell};

/// Lines of /proc/self/status of a process without the shell's forks.
fn status(bundle: Bundle, fields: &str) -> String {
    let args = json!(["grep", "-E", format!("^({fields}):"), "/proc/self/status"]);
    bundle.with("/process/args", args).run().said().replace('\t', " ")
}

#[test]
fn all_five_capability_sets_are_the_specifications() {
    let capabilities = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_CHECKPOINT_RESTORE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    // As another user: exec gives root all that the bounding set has.
    let user = json!({"uid": 1000, "gid": 1000});
    let bundle = Bundle::script("").with("/process/capabilities", capabilities).with("/process/user", user);
    let expected = "CapInh: 0000000000000020\nCapPrm: 0000000000000020\nCapEff: 0000000000000020\n\
        CapBnd: 0000010000002021\nCapAmb: 0000000000000020\n";
    assert_eq!(status(bundle, "Cap.*"), expected);
}

#[test]
fn root_has_what_the_bounding_set_has_and_no_more() {
    let bundle = Bundle::script("");
    assert_eq!(status(bundle, "CapEff|CapBnd"), "CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\n");
    let bundle = Bundle::script("").with("/process/capabilities", json!(null));
    assert_eq!(status(bundle, "CapEff|CapBnd"), "CapEff: 0000000000000000\nCapBnd: 0000000000000000\n");
}

#[test]
fn a_process_is_the_user_with_the_groups_and_the_umask() {
    let user = json!({"uid": 1000, "gid": 100, "additionalGids": [5, 7], "umask": 0o027});
    let bundle = Bundle::script("").with("/process/user", user);
    let expected = "Umask: 0027\nUid: 1000 1000 1000 1000\nGid: 100 100 100 100\nGroups: 5 7 \n";
    assert_eq!(status(bundle, "Umask|Uid|Gid|Groups"), expected);
    assert_eq!(status(Bundle::script(""), "Umask|Groups"), "Umask: 0022\nGroups:  \n");
}

#[test]
fn no_new_privileges_is_as_asked() {
    for (asked, there) in [(false, "0"), (true, "1")] {
        let bundle = Bundle::script("").with("/process/noNewPrivileges", json!(asked));
        assert_eq!(status(bundle, "NoNewPrivs"), format!("NoNewPrivs: {there}\n"));
    }
}

#[test]
fn no_signal_is_blocked_or_ignored() {
    let none = "0000000000000000";
    let expected = format!("SigBlk: {none}\nSigIgn: {none}\n");
    assert_eq!(status(Bundle::script(""), "SigBlk|SigIgn"), expected);
}

#[test]
fn limits_are_the_specifications() {
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 2000},
    ]);
    let script = "grep -E 'open files|core file|msgqueue' /proc/self/limits";
    let ran = Bundle::script(script).with("/process/rlimits", limits).run();
    let words: Vec<Vec<_>> = ran.said().lines().map(|line| line.split_whitespace().rev().collect()).collect();
    // Soft, hard and the unit, from the end.
    let ends: Vec<_> = words.iter().map(|words| (words[2], words[1])).collect();
    assert_eq!(ends, [("0", "0"), ("64", "128"), ("1000", "2000")]);
}

#[test]
fn environment_and_working_directory_are_the_specifications_alone() {
    let bundle = Bundle::script("")
        .with("/process/args", json!(["env"]))
        .with("/process/env", json!(["A=b c", "PATH=/bin"]));
    assert_eq!(bundle.run().said(), "A=b c\nPATH=/bin\n");
    // A directory that is missing is made.
    let bundle =
        Bundle::script("").with("/process/args", json!(["pwd"])).with("/process/cwd", json!("/made/for/it"));
    assert_eq!(bundle.run().said(), "/made/for/it\n");
}

#[test]
fn nothing_is_open_but_the_streams() {
    let ran = Bundle::script("").with("/process/args", json!(["ls", "/proc/self/fd"])).run();
    // The last is the directory that is listed.
    assert_eq!(ran.said(), "0\n1\n2\n3\n");
}

#[test]
fn another_user_can_open_its_streams_by_name() {
    let user = json!({"uid": 1000, "gid": 1000});
    let bundle = Bundle::script("echo out > /dev/stdout; echo err > /dev/stderr").with("/process/user", user);
    assert_eq!(bundle.run(), Ran { status: 0, out: "out\n".into(), err: "err\n".into() });
}

#[test]
fn oom_score_and_io_priority_are_set() {
    let script = "cat /proc/self/oom_score_adj";
    let bundle = Bundle::script(script)
        .with("/process/oomScoreAdj", json!(500))
        .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 3}));
    assert_eq!(bundle.run().said(), "500\n");
}

#[test]
fn one_more_process_has_its_own_user_and_the_containers_capabilities() {
    let bundle = Bundle::script("read -r line");
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    let mut process = shell("id -u; grep -E '^Cap(Eff|Bnd)' /proc/self/status");
    process["user"] = json!({"uid": 1000, "gid": 1000});
    let ran = running.execute(&process);
    assert_eq!(ran.said(), "1000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n");
    assert_eq!(running.end().status, 1);
}
