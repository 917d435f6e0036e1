//! What a kubelet has containerd's streaming server do with a pod that runs (port-forward, attach), and new limits.

use std::fs;
use std::path::Path;

use super::cri::Kubelet;
use super::cri_api::*;
use super::websocket::WebSocket;
use crate::process::PATIENCE;

/// Channels of `v4.channel.k8s.io`; those of a forwarded port have other meanings.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const DATA: u8 = 0;
const ERROR: u8 = 1;

const OWN: Namespaces = Namespaces { pid: 1 };

/// A connection to a port of the pod, with what comes first on its channels taken off: the port's number.
fn forwarded(kubelet: &Kubelet, pod: &str, port: u16) -> WebSocket {
    let request = PortForward { pod: pod.to_owned(), ports: vec![port.into()] };
    let answer: Url = kubelet.cri.done("RuntimeService/PortForward", request);
    let mut socket = WebSocket::connect(&format!("{}?port={port}", answer.url));
    for _ in [DATA, ERROR] {
        let (_, number) = socket.receive().unwrap();
        assert_eq!(number, port.to_le_bytes());
    }
    socket
}

fn ports_are_forwarded(kubelet: &Kubelet, pod: &str) {
    // One at loopback alone, where the pod's name server is said to be, and one at the pod's address alone.
    let script = "ip=$(ip -o -4 address show dev eth0 | sed 's/.*inet //; s/[/].*//')
        mkdir -p /www/loopback /www/address
        echo at loopback >/www/loopback/index.html; echo at the address >/www/address/index.html
        busybox httpd -p 127.0.0.1:53 -h /www/loopback && busybox httpd -p $ip:82 -h /www/address && echo listening
        exec sleep 1000";
    kubelet.start(pod, "server", script, OWN);
    let begin = std::time::Instant::now();
    while !kubelet.log("server").contains("listening") {
        assert!(begin.elapsed() < PATIENCE, "{}", kubelet.log("server"));
    }
    for (port, words) in [(53, "at loopback\n"), (82, "at the address\n")] {
        for _ in 0..2 {
            let mut socket = forwarded(kubelet, pod, port);
            socket.send(DATA, b"GET / HTTP/1.0\r\n\r\n");
            socket.wait_for(DATA, words);
        }
    }
    // Where nobody listens, the connection ends.
    let mut socket = forwarded(kubelet, pod, 83);
    assert_eq!(socket.rest(DATA), "");
}

fn a_client_attaches(kubelet: &Kubelet, pod: &str) {
    let script = "while read line; do echo \"got $line\"; echo \"not $line\" >&2; done; echo over; exit 3";
    let id = kubelet.start_as(pod, "attached", script, OWN, |config| {
        config.stdin = true;
        config.stdin_once = true;
    });
    let request = Attach { container: id.clone(), stdin: true, stdout: true, stderr: true };
    let answer: Url = kubelet.cri.done("RuntimeService/Attach", request);
    let mut socket = WebSocket::connect(&answer.url);
    for line in ["one", "two"] {
        socket.send(STDIN, format!("{line}\n").as_bytes());
        socket.wait_for(STDOUT, &format!("got {line}\n"));
    }
    // What was its log all the time, whoever was attached. Its input ends with the client's.
    socket.close();
    assert_eq!(kubelet.end_of(&id), 3);
    let log = kubelet.log("attached");
    for words in ["F got one\n", "F not two\n", "F over\n"] {
        assert!(log.contains(words), "{words:?} is not in:\n{log}");
    }
}

fn one_attaches_to_output_alone(kubelet: &Kubelet, pod: &str) {
    let script = "until [ -e /go ]; do echo waiting; sleep 0.1; done; echo gone >&2";
    let id = kubelet.start(pod, "watched", script, OWN);
    let request = Attach { container: id.clone(), stdin: false, stdout: true, stderr: true };
    let answer: Url = kubelet.cri.done("RuntimeService/Attach", request);
    let mut socket = WebSocket::connect(&answer.url);
    socket.wait_for(STDOUT, "waiting\n");
    kubelet.exec(&id, "touch /go");
    socket.wait_for(STDERR, "gone\n");
    assert_eq!(kubelet.end_of(&id), 0);
}

/// The machine's group on the host is `group`.
fn limits_change(kubelet: &Kubelet, pod: &str, group: &Path) {
    let limits = |memory_limit, cpu_quota| Resources {
        cpu_period: 100_000,
        cpu_quota,
        cpu_shares: 512,
        memory_limit,
        cpuset_cpus: String::new(),
    };
    let id = kubelet.start_as(pod, "limited", "exec sleep 1000", OWN, |config| {
        config.linux.as_mut().unwrap().resources = Some(limits(64 << 20, 20_000));
    });
    let read = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max";
    assert_eq!(kubelet.exec(&id, read), "67108864\n20000 100000\nmax\n");
    // A set is the machine's, as the kubelet's manager of processors gives it: the guest has other numbers.
    let last = (std::thread::available_parallelism().unwrap().get() - 1).to_string();
    let changed = Resources { cpuset_cpus: last.clone(), ..limits(96 << 20, 50_000) };
    let request = UpdateResources { container: id.clone(), linux: Some(changed) };
    let _: Nothing = kubelet.cri.done("RuntimeService/UpdateContainerResources", request);
    assert_eq!(kubelet.exec(&id, read), "100663296\n50000 100000\nmax\n");
    assert_eq!(fs::read_to_string(group.join("cpuset.cpus")).unwrap(), last + "\n");
}

/// All of it in one pod.
fn a_pod_is_reached(sandboxer: &str, io: &str, network: &str) {
    let Some(mut kubelet) = Kubelet::new(sandboxer, io, network) else { return };
    kubelet.pod.dns = Some(Dns { servers: vec!["127.0.0.1".to_owned()] });
    let pod = kubelet.run();
    a_client_attaches(&kubelet, &pod);
    one_attaches_to_output_alone(&kubelet, &pod);
    limits_change(&kubelet, &pod, &Path::new("/sys/fs/cgroup").join(format!("rvm-{sandboxer}")).join(&pod));
    ports_are_forwarded(&kubelet, &pod);
    let _: Nothing = kubelet.cri.done("RuntimeService/StopPodSandbox", Id { id: pod.clone() });
    let _: Nothing = kubelet.cri.done("RuntimeService/RemovePodSandbox", Id { id: pod });
}

#[test]
fn a_pod_with_a_sandbox_of_the_shims_is_reached_by_connections() {
    a_pod_is_reached("shim", "streaming", "10.186.0");
}

#[test]
fn a_pod_with_a_pause_container_is_reached() {
    a_pod_is_reached("podsandbox", "", "10.187.0");
}
