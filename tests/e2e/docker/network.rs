//! Docker's networks: the default bridge, networks of users, names, published ports, and changes while it runs.

use std::process::Command;

use super::place::{BUSYBOX, Docker, RUNTIME};

/// What a web server of this host answers.
#[track_caller]
pub fn fetch(url: &str) -> String {
    let retries = ["--retry", "60", "--retry-all-errors", "--retry-delay", "1"];
    let output =
        Command::new("curl").args(["--silent", "--fail", "--max-time", "60"]).args(retries).arg(url).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{url}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The addresses of IPv4 that a container has, with their interfaces.
fn addresses(docker: &Docker, name: &str) -> Vec<String> {
    let lines = docker.exec(name, "ip -4 -o address show");
    let words = |line: &str| line.split_whitespace().skip(1).step_by(2).take(2).collect::<Vec<_>>().join(" ");
    lines.lines().map(words).filter(|address| !address.starts_with("lo")).collect()
}

#[test]
fn a_published_port_leads_to_the_container() {
    let Some(docker) = Docker::new() else { return };
    let script = "mkdir /web; echo served >/web/index.html; exec httpd -f -p 80 -h /web";
    docker.start("rvm-web", &["-p", "8190:80", "--ipc", "shareable"], &["sh", "-c", script]);
    assert_eq!(fetch("http://127.0.0.1:8190/"), "served\n");
    let own = docker.inspect("rvm-web", ".NetworkSettings.Networks.bridge.IPAddress");
    assert_eq!(fetch(&format!("http://{own}/")), "served\n");
    docker.said(&["restart", "-t", "0", "rvm-web"]);
    assert_eq!(fetch("http://127.0.0.1:8190/"), "served\n");

    // Who shares its network shares its machine, and can share its processes and objects of IPC.
    let shared =
        ["--network", "container:rvm-web", "--pid", "container:rvm-web", "--ipc", "container:rvm-web"];
    let script = "wget -q -O - http://127.0.0.1/; readlink /proc/self/ns/ipc; ps | grep '[h]ttpd'";
    let ran = docker.run(&shared, &["sh", "-c", script]);
    let ipc = docker.exec("rvm-web", "readlink /proc/self/ns/ipc");
    assert!(ran.out.starts_with(&format!("served\n{ipc}\n")) && ran.out.contains("httpd -f"), "{ran:?}");

    // A container of another runtime keeps its network and its processes for itself.
    docker.said(&["run", "-d", "--name", "rvm-not", BUSYBOX, "sleep", "1000000"]);
    for (flags, words) in [
        (&["--network", "container:rvm-not"][..], "(sleep) is in it"),
        (&["--network", "container:rvm-web", "--pid", "container:rvm-not"], "the pid namespace"),
        (&["--pid", "container:rvm-web"], "the pid namespace"),
    ] {
        let ran = docker.run(flags, &["true"]);
        assert!(ran.status == Some(125) && ran.error.contains(words), "{flags:?}: {ran:?}");
    }
    docker.exec("rvm-not", "ip link show eth0; ping -c 1 172.17.0.1");
    docker.remove(&["rvm-not"]);
    docker.removes_all_of("rvm-web");
}

#[test]
fn on_a_users_network_containers_find_each_other_by_name() {
    let Some(docker) = Docker::new() else { return };
    docker.said(&["network", "create", "--subnet", "10.155.0.0/24", "--gateway", "10.155.0.1", "rvm-net"]);
    let script = "mkdir /db; echo row >/db/table; exec httpd -f -p 5432 -h /db";
    docker.start("rvm-db", &["--network", "rvm-net", "--ip", "10.155.0.9"], &["sh", "-c", script]);
    let script = "nslookup rvm-db | grep '10.155.0.9'; until wget -q -O - http://rvm-db:5432/table; do sleep 0.1; done";
    let ran = docker.run(&["--network", "rvm-net"], &["sh", "-c", script]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.out.contains("10.155.0.9") && ran.out.ends_with("row\n"), "{ran:?}");

    // A network that comes and goes while it runs.
    assert_eq!(addresses(&docker, "rvm-db"), ["eth0 10.155.0.9/24"]);
    docker.said(&["network", "connect", "bridge", "rvm-db"]);
    let show = ["exec", "rvm-db", "ip", "address"];
    docker.until(&show, |text| text.contains("eth1") && text.contains("172.17."));
    let gateway = docker.inspect("rvm-db", ".NetworkSettings.Networks.bridge.Gateway");
    docker.exec("rvm-db", &format!("ping -c 1 -I eth1 {gateway}"));
    docker.said(&["network", "disconnect", "bridge", "rvm-db"]);
    docker.until(&show, |text| !text.contains("172.17."));
    docker.remove(&["rvm-db"]);
    docker.said(&["network", "rm", "rvm-net"]);
}

#[test]
fn without_a_network_there_is_only_loopback() {
    let Some(docker) = Docker::new() else { return };
    let ran = docker.run(&["--network", "none"], &["ip", "-o", "address"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.out.lines().all(|line| line.contains(" lo ")), "{ran:?}");
}

/// Tells its name to whoever connects.
const SERVER: &str = r#"
import socket
server = socket.create_server(("", 8000))
while True:
    client, _ = server.accept()
    client.sendall(socket.gethostname().encode())
    client.close()
"#;

/// What a container sees, a line each: its Python, files, limits, name and address, and how many processes.
const WHAT_IS_SEEN: &str = r#"
import os, socket, sys
open("/home/" + os.environ["NAME"], "w").close()
print("Python", *sys.version_info[:2])
print(os.listdir("/home"))
for limit in "memory.max", "cpu.max":
    print(open("/sys/fs/cgroup/" + limit).read(), end="")
print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))
print(sum(name.isdigit() for name in os.listdir("/proc")))
"#;

#[test]
fn two_containers_have_each_its_own_and_do_not_see_each_other() {
    let Some(docker) = Docker::with("localhost:5000/python") else { return };
    docker.pull("localhost:5000/python-older");
    let containers = [
        ("rvm-one", "localhost:5000/python", ["128m", "134217728"], ["0.9", "90000 100000"]),
        ("rvm-two", "localhost:5000/python-older", ["192m", "201326592"], ["0.8", "80000 100000"]),
    ];
    for (name, image, memory, cpus) in containers {
        let limits = ["-m", memory[0], "--cpus", cpus[0], "-e", &format!("NAME={name}")];
        let what = ["--name", name, image, "python3", "-c", SERVER];
        docker.said(&[&["run", "-d", "--runtime", RUNTIME], &limits[..], &what].concat());
    }
    let mut versions = Vec::new();
    let mut one = String::new();
    for (name, _, memory, cpus) in containers.into_iter().rev() {
        let seen = docker.said(&["exec", name, "python3", "-c", WHAT_IS_SEEN]);
        let host = docker.inspect(name, ".Config.Hostname");
        let address = docker.inspect(name, ".NetworkSettings.Networks.bridge.IPAddress");
        one = format!("{host} {address}");
        let (version, rest) = seen.split_once('\n').unwrap();
        versions.push(version.to_owned());
        // The server, and who asks.
        assert_eq!(rest, format!("['{name}']\n{}\n{}\n{one}\n2", memory[1], cpus[1]), "{seen}");
    }
    assert_ne!(versions[0], versions[1]);
    // One knows the other by network alone.
    let (host, address) = one.split_once(' ').unwrap();
    let fetch = format!("import socket; print(socket.create_connection(('{address}', 8000)).recv(99))");
    assert_eq!(docker.said(&["exec", "rvm-two", "python3", "-c", &fetch]), format!("b'{host}'"));
    docker.remove(&["rvm-one", "rvm-two"]);
}

/// Hundredths of a second that a process has had of the processors (proc_pid_stat(5)).
fn processor_time(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_container_at_its_limits_does_not_take_what_is_anothers() {
    let Some(docker) = Docker::new() else { return };
    // One asks for more of both than it may have, the other for all that is left.
    let greedy = "while :; do tail /dev/zero; done 2>/dev/null & while :; do :; done";
    docker.start("rvm-greedy", &["-m", "32m", "--cpus", "0.1"], &["sh", "-c", greedy]);
    docker.start("rvm-modest", &[], &["sleep", "1000000"]);
    let killed = "oom_kill [1-9]' /sys/fs/cgroup/memory.events";
    docker.exec("rvm-greedy", &format!("until grep -q '{killed}; do sleep 1; done"));
    // While the modest one works. However busy the host is, the greedy one's machine has no more of its processor than the
    // container may have, and what that costs the VMM.
    let machines = ["rvm-greedy", "rvm-modest"].map(|name| docker.inspect(name, ".State.Pid"));
    let times = || machines.each_ref().map(|machine| processor_time(machine));
    let (begin, [greedy_before, modest_before]) = (std::time::Instant::now(), times());
    docker.exec("rvm-modest", "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done");
    let ([greedy, modest], passed) = (times(), begin.elapsed());
    let (greedy, modest) = (greedy - greedy_before, modest - modest_before);
    println!("{greedy} hundredths of a second, and {modest} of the modest one's, in {passed:?}");
    assert!(u128::from(greedy) * 10 < passed.as_millis() / 4);
    // Who asks for no more than there is has the greater part, although both always want more.
    assert!(modest > greedy);
    docker.exec("rvm-modest", &format!("! grep '{killed}"));
    let was_out_of_memory = |name: &str| docker.inspect(name, ".State.OOMKilled");
    assert_eq!(["rvm-greedy", "rvm-modest"].map(was_out_of_memory), ["true", "false"]);
    docker.remove(&["rvm-greedy", "rvm-modest"]);
}

#[test]
fn an_image_is_the_same_for_both_runtimes() {
    let Some(docker) = Docker::new() else { return };
    let ran = docker.try_to(&["run", "--rm", BUSYBOX, "uname", "-r"]);
    let own = docker.try_to(&["run", "--rm", "--runtime", RUNTIME, BUSYBOX, "uname", "-r"]);
    assert!(ran.status == Some(0) && own.status == Some(0) && ran.out != own.out, "{ran:?} {own:?}");
}
