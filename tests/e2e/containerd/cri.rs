//! Kubernetes' way: containerd's CRI, by both of the ways in which it has a pod's sandbox made.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use rvm_tests::daemon::{self, Error};
use serde_json::json;

use super::cri_api::*;
use super::own::Containerd;
use super::place::{BUSYBOX, RUNTIME};
use crate::process::{PATIENCE, run};
use crate::traces::of_pod;

/// The image of a pause container.
const PAUSE: &str = "localhost/pause:latest";

/// A containerd with rvm as a runtime class, and what a kubelet would tell it.
pub struct Kubelet {
    containerd: Containerd,
    pub cri: Cri,
    pub pod: PodConfig,
}

/// A program of the host, to its end.
#[track_caller]
fn tool(name: &str, words: &[&str]) {
    let mut command = Command::new(name);
    command.args(words);
    let ran = run(command);
    assert_eq!(ran.status, Some(0), "{name} {words:?}: {ran:?}");
}

impl Kubelet {
    /// One whose pods' sandboxes are made by `sandboxer`, whose containers' streams are of the kind `io` ("": FIFOs), and
    /// whose pods have addresses in `network` (of three numbers).
    pub fn new(sandboxer: &str, io: &str, network: &str) -> Option<Self> {
        match daemon::registry() {
            Err(error @ Error::NotHere { .. }) => {
                rvm_tests::cannot_run(&error.to_string());
                return None;
            }
            other => other.unwrap(),
        }
        let configuration = format!(
            r#"
            version = 3
            [plugins.'io.containerd.cri.v1.images'.pinned_images]
              sandbox = '{PAUSE}'
            [plugins.'io.containerd.cri.v1.runtime'.cni]
              bin_dir = '/usr/lib/cni'
              conf_dir = '{{DIR}}cni'
            [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.rvm]
              runtime_type = '{RUNTIME}'
              sandboxer = '{sandboxer}'
              io_type = '{io}'
            # Its socket is the system's.
            [plugins.'io.containerd.nri.v1.nri']
              disable = true
            "#
        );
        let mut containerd = Containerd::exactly("k8s.io", &configuration, |_| {});
        let ipam = json!({
            "type": "host-local", "dataDir": containerd.path("addresses"),
            "ranges": [[{ "subnet": format!("{network}.0/24") }]], "routes": [{ "dst": "0.0.0.0/0" }],
        });
        // Bridges stay; each test has its own.
        let name = format!("rvm-cri{}", network.rsplit('.').nth(1).unwrap());
        let bridge = json!({ "type": "bridge", "bridge": name, "isGateway": true, "ipam": ipam });
        let list = json!({ "cniVersion": "1.0.0", "name": "rvm-cri", "plugins": [bridge] });
        fs::create_dir_all(containerd.path("cni")).unwrap();
        fs::write(containerd.path("cni/10-rvm.conflist"), list.to_string()).unwrap();

        // A busybox that sleeps.
        let layout = containerd.path("pause");
        let from = format!("oci:{}/oci:busybox", daemon::images().unwrap().display());
        tool("skopeo", &["copy", &from, &format!("oci:{layout}:pause")]);
        let sleeps = ["--config.entrypoint", "sleep", "--config.entrypoint", "1000000"];
        let image = format!("{layout}:pause");
        tool("umoci", &[&["config", "--image", &image, "--clear", "config.cmd"][..], &sleeps].concat());
        let archive = format!("docker-archive:{}:{PAUSE}", containerd.path("pause.tar"));
        tool("skopeo", &["copy", &format!("oci:{image}"), &archive]);
        containerd.said(&["images", "import", "--local", &containerd.path("pause.tar")]);
        // It hears of images and networks while it runs as well, but some time later.
        containerd.end(Signal::SIGTERM);
        containerd.start();

        let cri = Cri::at(containerd.path("socket"));
        let image = Some(Image { image: BUSYBOX.to_owned() });
        let _: Nothing = cri.done("ImageService/PullImage", PullImage { image });
        let metadata =
            Metadata { name: "pod".to_owned(), uid: "7".to_owned(), namespace: "default".to_owned() };
        let pod = PodConfig {
            metadata: Some(metadata),
            hostname: "box".to_owned(),
            log_directory: containerd.path("logs"),
            dns: Some(Dns { servers: vec!["192.0.2.53".to_owned()] }),
            linux: Some(LinuxPod {
                cgroup_parent: format!("/rvm-{sandboxer}"),
                sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned())].into(),
                resources: Some(Resources { memory_limit: 128 << 20, ..Resources::default() }),
            }),
        };
        fs::create_dir_all(&pod.log_directory).unwrap();
        Some(Self { containerd, cri, pod })
    }

    /// Runs the pod; gives its name.
    #[track_caller]
    pub fn run(&self) -> String {
        let request = RunPod { config: Some(self.pod.clone()), runtime_handler: "rvm".to_owned() };
        let pod: Id = self
            .cri
            .call("RuntimeService/RunPodSandbox", request)
            .unwrap_or_else(|status| panic!("{}\n{}", status.message(), self.containerd.log()));
        pod.id
    }

    /// Starts a container of a script in the pod; gives its name.
    #[track_caller]
    pub fn start(&self, pod: &str, name: &str, script: &str, namespaces: Namespaces) -> String {
        self.start_as(pod, name, script, namespaces, |_| {})
    }

    /// The same, with changes to its configuration.
    #[track_caller]
    pub fn start_as(
        &self,
        pod: &str,
        name: &str,
        script: &str,
        namespaces: Namespaces,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        let added = vec!["NET_RAW".to_owned()];
        let security = Security { capabilities: Some(Capabilities { added }), namespaces: Some(namespaces) };
        let mut config = ContainerConfig {
            metadata: Some(Metadata { name: name.to_owned(), ..Metadata::default() }),
            image: Some(Image { image: BUSYBOX.to_owned() }),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainer { resources: None, security: Some(security) }),
            ..ContainerConfig::default()
        };
        change(&mut config);
        let request =
            CreateContainer { pod: pod.to_owned(), config: Some(config), pod_config: Some(self.pod.clone()) };
        let container: Id = self.cri.done("RuntimeService/CreateContainer", request);
        let _: Nothing = self.cri.done("RuntimeService/StartContainer", container.clone());
        container.id
    }

    /// What a container's file of logs has.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(Path::new(&self.pod.log_directory).join(format!("{name}.log"))).unwrap_or_default()
    }

    fn container(&self, id: &str) -> ContainerStatus {
        let request = Id { id: id.to_owned() };
        let answer: ContainerStatusAnswer = self.cri.done("RuntimeService/ContainerStatus", request);
        answer.status.unwrap()
    }

    /// Waits for the end of a container; gives its exit status.
    #[track_caller]
    pub fn end_of(&self, id: &str) -> i32 {
        let begin = Instant::now();
        loop {
            let status = self.container(id);
            if status.state == 2 {
                return status.exit_code;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end: {}", self.containerd.log());
        }
    }

    pub fn exec(&self, id: &str, script: &str) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).into();
        let request = ExecSync { container: id.to_owned(), command, timeout: 60 };
        let answer: ExecSyncAnswer = self.cri.done("RuntimeService/ExecSync", request);
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Waits until nothing is left of the pod, which was removed.
    #[track_caller]
    fn leaves_nothing(&self, pod: &str) {
        let begin = Instant::now();
        while !self.traces(pod).is_empty() {
            let traces = self.traces(pod);
            assert!(begin.elapsed() < PATIENCE, "left: {traces:#?}\n{}", self.containerd.log());
        }
    }

    fn status(&self, pod: &str) -> PodStatus {
        let answer: PodStatusAnswer =
            self.cri.done("RuntimeService/PodSandboxStatus", Id { id: pod.to_owned() });
        answer.status.unwrap()
    }

    /// Whether there is anything of this containerd's pod: shims, bundles, sockets, mounts.
    fn traces(&self, pod: &str) -> Vec<String> {
        let state = self.containerd.path("state");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let is_shims = |mount: &&str| mount.contains(&state) && mount.contains("io.containerd.runtime");
        let mut traces: Vec<String> = mounts.lines().filter(is_shims).map(str::to_owned).collect();
        traces.extend(of_pod(&self.containerd.path("socket"), "k8s.io", pod));
        for kind in ["io.containerd.runtime.v2.task", "io.containerd.sandbox.controller.v1.shim"] {
            let bundles = Path::new(&state).join(kind).join("k8s.io");
            traces.extend(
                fs::read_dir(bundles)
                    .into_iter()
                    .flatten()
                    .map(|entry| entry.unwrap().path().display().to_string()),
            );
        }
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // The daemon of the containerd itself has its directory in its command line as well.
            let own = self.containerd.path("socket");
            if line.contains("containerd-shim-rvm-v2") && line.contains(&own) {
                traces.push(format!("{}: {line}", path.display()));
            }
        }
        traces
    }
}

/// A pod's life as a kubelet has it.
fn a_pod_lives(sandboxer: &str, io: &str, network: &str) {
    let Some(kubelet) = Kubelet::new(sandboxer, io, network) else { return };
    let pod = kubelet.run();
    let status = kubelet.status(&pod);
    let ip = status.network.unwrap().ip;
    assert_eq!((status.state, ip.starts_with(network)), (0, true), "{ip}");
    let group = Path::new("/sys/fs/cgroup").join(format!("rvm-{sandboxer}"));
    assert!(group.join(&pod).exists());

    let script = format!(
        "hostname; cat /etc/resolv.conf /etc/hosts /etc/hostname; ip -o address show dev eth0; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ping -c 1 {network}.1; ls -d /dev/shm; exit 6"
    );
    let own = Namespaces { pid: 1 };
    let first = kubelet.start(&pod, "first", &script, own);
    assert_eq!(kubelet.end_of(&first), 6);
    let said = kubelet.log("first");
    for expected in
        ["F box\n", "nameserver 192.0.2.53", "localhost", &ip, "F 7\n", "1 packets received", "/dev/shm"]
    {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    // The pod outlives its first container, and containers find each other.
    let second = kubelet.start(&pod, "second", "echo hello | nc -l -p 80; exec sleep 1000", own);
    let third = kubelet.start(&pod, "third", "until nc 127.0.0.1 80; do sleep 0.1; done", own);
    assert_eq!(kubelet.end_of(&third), 0);
    assert!(kubelet.log("third").contains("hello"), "{}", kubelet.log("third"));
    assert_eq!(kubelet.exec(&second, "hostname; free -m | awk '/Mem/ { print ($2 <= 192) }'"), "box\n1\n");
    // More than fits in a pipe arrives whole.
    let many = kubelet.start(&pod, "many", "seq 20000", own);
    assert_eq!(kubelet.end_of(&many), 0);
    let begin = Instant::now();
    while !kubelet.log("many").ends_with(" F 20000\n") {
        assert!(begin.elapsed() < PATIENCE, "{} bytes came", kubelet.log("many").len());
    }
    assert_eq!(kubelet.log("many").lines().count(), 20000);
    // With the pod's processes, others' are seen.
    let fourth = kubelet.start(&pod, "fourth", "ps", Namespaces { pid: 0 });
    assert_eq!(kubelet.end_of(&fourth), 0);
    if sandboxer == "shim" {
        assert!(kubelet.log("fourth").contains("sleep 1000"), "{}", kubelet.log("fourth"));
    }
    let _: Nothing = kubelet.cri.done("RuntimeService/RemoveContainer", Id { id: first });
    assert_eq!(kubelet.status(&pod).state, 0);

    let _: Nothing = kubelet.cri.done("RuntimeService/StopPodSandbox", Id { id: pod.clone() });
    assert_eq!((kubelet.end_of(&second), kubelet.status(&pod).state), (137, 1));
    let _: Nothing = kubelet.cri.done("RuntimeService/StopPodSandbox", Id { id: pod.clone() });
    let _: Nothing = kubelet.cri.done("RuntimeService/RemovePodSandbox", Id { id: pod.clone() });
    kubelet.leaves_nothing(&pod);
    assert!(!group.join(&pod).exists());
}

#[test]
fn a_pod_with_a_sandbox_of_the_shims_lives_as_a_kubelet_has_it() {
    a_pod_lives("shim", "", "10.182.0");
}

#[test]
fn a_pod_with_a_pause_container_lives_as_a_kubelet_has_it() {
    a_pod_lives("podsandbox", "", "10.183.0");
}

#[test]
fn a_pod_with_streams_by_connections_lives_as_a_kubelet_has_it() {
    a_pod_lives("shim", "streaming", "10.185.0");
}

/// Overwrites the code of the guest's first process, which is the agent: there is no other way to its end.
const KILL_THE_AGENT: &str = "until [ -e /go ]; do sleep 0.1; done; code=$(grep -m 1 ' r-xp ' /proc/1/maps); begin=0x${code%%-*}; rest=${code#*-}; \
     pages=$(((0x${rest%% *} - begin) / 4096)); \
     dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((begin / 4096)) count=$pages conv=notrunc";

#[test]
fn a_sandbox_goes_on_while_containerd_is_started_again_and_is_told_when_it_is_gone() {
    let Some(mut kubelet) = Kubelet::new("shim", "", "10.184.0") else { return };
    let pod = kubelet.run();
    let container = kubelet.start(&pod, "first", "exec sleep 1000", Namespaces { pid: 1 });
    kubelet.containerd.end(Signal::SIGKILL);
    kubelet.containerd.start();
    kubelet.cri = Cri::at(kubelet.containerd.path("socket"));
    assert_eq!((kubelet.status(&pod).state, kubelet.container(&container).state), (0, 1));
    assert_eq!(kubelet.exec(&container, "echo here"), "here\n");
    // A container that may see the guest's processes and change their memory kills its pod, and is told of with it.
    let killer = kubelet.start_as(&pod, "killer", KILL_THE_AGENT, Namespaces { pid: 0 }, |config| {
        let security = config.linux.as_mut().unwrap().security.as_mut().unwrap();
        security.capabilities = Some(Capabilities { added: vec!["SYS_PTRACE".to_owned()] });
    });
    // Whether this still has an answer is not known.
    let command = ["touch", "/go"].map(str::to_owned).into();
    let request = ExecSync { container: killer, command, timeout: 60 };
    kubelet.cri.call::<_, ExecSyncAnswer>("RuntimeService/ExecSync", request).ok();
    assert_eq!(kubelet.end_of(&container), 137);
    let begin = Instant::now();
    while kubelet.status(&pod).state != 1 {
        assert!(begin.elapsed() < PATIENCE, "the end is not told: {}", kubelet.containerd.log());
    }
    let _: Nothing = kubelet.cri.done("RuntimeService/StopPodSandbox", Id { id: pod.clone() });
    let _: Nothing = kubelet.cri.done("RuntimeService/RemovePodSandbox", Id { id: pod.clone() });
    kubelet.leaves_nothing(&pod);
}
