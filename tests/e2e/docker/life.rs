//! The life of a container at Docker: from `run -d` to `rm`, with all that comes between.

use std::process::Stdio;

use super::place::Docker;

#[test]
fn a_container_lives_and_ends_as_with_any_runtime() {
    let Some(docker) = Docker::new() else { return };
    let script = "trap 'echo term; exit 0' TERM; echo started; while :; do sleep 0.1; done";
    docker.start("rvm-life", &["--label", "of=rvm-life"], &["sh", "-c", script]);
    docker.until(&["logs", "rvm-life"], |log| log == "started\n");
    let follower = Docker::command(&["logs", "-f", "rvm-life"]).stdout(Stdio::piped()).spawn().unwrap();
    let ps = docker.said(&["ps", "--filter", "label=of=rvm-life", "--format", "{{.Names}} {{.Status}}"]);
    assert!(ps.starts_with("rvm-life Up"), "{ps}");
    assert_eq!(docker.inspect("rvm-life", ".HostConfig.Runtime"), super::place::RUNTIME);
    assert!(docker.exec("rvm-life", "ps").contains("sleep 0.1"));
    assert!(docker.said(&["top", "rvm-life"]).contains("PID"));
    let stats = docker.said(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "rvm-life"]);
    assert!(!stats.starts_with("0B") && !stats.ends_with(" 0"), "{stats}");

    docker.said(&["pause", "rvm-life"]);
    assert_eq!(docker.inspect("rvm-life", ".State.Status"), "paused");
    docker.said(&["unpause", "rvm-life"]);
    docker.said(&["update", "--memory", "100m", "--memory-swap", "100m", "rvm-life"]);
    assert_eq!(docker.exec("rvm-life", "cat /sys/fs/cgroup/memory.max"), "104857600");
    docker.said(&["update", "--cpus", "0.5", "--pids-limit", "33", "rvm-life"]);
    let limits = docker.exec("rvm-life", "cd /sys/fs/cgroup; echo $(cat cpu.max pids.max memory.max)");
    assert_eq!(limits, "50000 100000 33 104857600");

    docker.said(&["stop", "rvm-life"]);
    assert_eq!(docker.inspect("rvm-life", ".State.Status"), "exited");
    assert_eq!(docker.inspect("rvm-life", ".State.ExitCode"), "0");
    assert_eq!(docker.said(&["logs", "--tail", "1", "rvm-life"]), "term");
    // Who follows the log has had all of it, and is told of its end.
    assert_eq!(follower.wait_with_output().unwrap().stdout, b"started\nterm\n");
    docker.said(&["start", "rvm-life"]);
    docker.until(&["logs", "rvm-life"], |log| log == "started\nterm\nstarted\n");
    docker.said(&["kill", "rvm-life"]);
    docker.until(&["inspect", "--format", "{{.State.ExitCode}}", "rvm-life"], |code| code == "137\n");
    docker.said(&["rm", "rvm-life"]);
}

#[test]
fn files_outlive_a_restart_and_are_copied_both_ways() {
    let Some(docker) = Docker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let [there, back] = ["there", "back"].map(|name| directory.path().join(name).display().to_string());
    std::fs::write(&there, "copied\n").unwrap();
    docker.start("rvm-files", &[], &["sh", "-c", "echo written >>/data; sleep 1000"]);
    docker.said(&["cp", &there, "rvm-files:/root/copied"]);
    assert_eq!(docker.exec("rvm-files", "cat /root/copied"), "copied");
    docker.said(&["restart", "-t", "0", "rvm-files"]);
    docker.until(&["exec", "rvm-files", "cat", "/data"], |data| data == "written\nwritten\n");
    docker.said(&["cp", "rvm-files:/data", &back]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "written\nwritten\n");
    let changes = docker.said(&["diff", "rvm-files"]);
    assert!(changes.contains("A /data") && changes.contains("A /root/copied"), "{changes}");

    docker.said(&["commit", "rvm-files", "rvm-committed"]);
    docker.said(&["rm", "-f", "rvm-files"]);
    let ran = docker.try_to(&[
        "run",
        "--rm",
        "--runtime",
        super::place::RUNTIME,
        "rvm-committed",
        "cat",
        "/root/copied",
    ]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "copied\n"), "{ran:?}");
    docker.said(&["rmi", "rvm-committed"]);
}

#[test]
fn health_is_checked_and_what_ends_is_restarted() {
    let Some(docker) = Docker::new() else { return };
    let health = [
        ["--health-cmd", "test -e /healthy"],
        ["--health-interval", "1s"],
        ["--health-retries", "2"],
        ["--health-start-interval", "1s"],
        ["--health-start-period", "1h"],
        ["--health-timeout", "1m"],
    ]
    .concat();
    docker.start("rvm-health", &health, &["sh", "-c", "touch /healthy; sleep 1000"]);
    docker.start("rvm-again", &["--restart", "on-failure:2"], &["sh", "-c", "echo life; exit 3"]);
    docker
        .until(&["inspect", "--format", "{{.State.Health.Status}}", "rvm-health"], |now| now == "healthy\n");
    docker.until(&["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "rvm-again"], |now| {
        now == "2 exited\n"
    });
    assert_eq!(docker.said(&["logs", "rvm-again"]), "life\nlife\nlife");
    docker.said(&["rm", "-f", "rvm-health", "rvm-again"]);
}
