//! A shim as containerd 2.3 starts it, with a container from its first call to its last: what the calls answer, which
//! events come of them, and what the log says.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use containerd_shim_protos::api::{
    ConnectRequest, DeleteRequest, Empty, ExecProcessRequest, ForwardRequest, KillRequest, PauseRequest,
    ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StatsRequest, Status, WaitRequest,
    WaitResponse,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, LogLevel};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::{self, Server, TtrpcContext};
use containerd_shim_protos::{Events, create_events};
use nix::sys::stat::Mode;
use serde_json::json;

use super::direct::{Container, Shim, patience};
use super::place::Place;

/// An event: its topic, and when a process ended.
type Event = (String, Option<SystemTime>);

/// Where events go: containerd's end.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Events for Heard {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        assert_eq!(envelope.namespace, "calls");
        let event = envelope.event.unwrap();
        let exit = (event.type_url == "containerd.events.TaskExit")
            .then(|| TaskExit::parse_from_bytes(&event.value).unwrap());
        let at = exit.map(|exit| exit.exited_at.unwrap().into());
        self.0.lock().unwrap().push((envelope.topic, at));
        Ok(Empty::default())
    }
}

fn wait(shim: &Shim, exec: &str) -> (u32, SystemTime) {
    let (id, exec_id) = ("c1".to_owned(), exec.to_owned());
    let request = WaitRequest { id, exec_id, ..WaitRequest::default() };
    let WaitResponse { exit_status, exited_at, .. } = shim.tasks.wait(patience(), &request).unwrap();
    (exit_status, exited_at.unwrap().into())
}

fn start(shim: &Shim, exec: &str) {
    let (id, exec_id) = ("c1".to_owned(), exec.to_owned());
    let request = StartRequest { id, exec_id, ..StartRequest::default() };
    shim.tasks.start(patience(), &request).unwrap();
}

/// The processor time that the container has used, in microseconds.
fn used(shim: &Shim) -> u64 {
    let request = StatsRequest { id: "c1".to_owned(), ..StatsRequest::default() };
    let stats = shim.tasks.stats(patience(), &request).unwrap().stats.unwrap();
    Metrics::parse_from_bytes(&stats.value).unwrap().cpu.usage_usec
}

fn status(shim: &Shim) -> Status {
    let request = StateRequest { id: "c1".to_owned(), ..StateRequest::default() };
    shim.tasks.state(patience(), &request).unwrap().status.enum_value().unwrap()
}

#[test]
fn a_container_lives_and_all_of_it_is_told_in_order_and_once_where_containerd_2_3_listens() {
    let Some(place) = Place::new("calls") else { return };
    let bundle = tempfile::tempdir_in("/run").unwrap();
    let path = |name: &str| bundle.path().join(name).to_str().unwrap().to_owned();
    let (sockets, events) = (path("s"), format!("unix://{}", path("events")));
    let heard = Heard::default();
    let mut containerd =
        Server::new().bind(&events).unwrap().register_service(create_events(Arc::new(heard.clone())));
    containerd.start().unwrap();
    nix::unistd::mkfifo(path("log").as_str(), Mode::S_IRWXU).unwrap();
    let mut log =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path("log")).unwrap();
    let params = BootstrapParams {
        instance_id: "p1".to_owned(),
        namespace: "calls".to_owned(),
        log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
        containerd_ttrpc_address: events,
        socket_dir: Some(sockets.clone()),
        ..BootstrapParams::default()
    };
    let shim = Shim::start_with(&params, "calls", "p1", bundle);
    assert!(shim.address.starts_with(&format!("unix://{sockets}/")), "{}", shim.address);

    let container = Container::new("c1", "exec sleep 1000", None);
    assert_eq!(shim.create_container(&container), Ok(()));
    start(&shim, "");
    let before = used(&shim);

    // As Docker and CRI have it where the host has AppArmor, or SELinux.
    let process = json!({
        "args": ["/bin/sh", "-c", "i=0; while [ $i -lt 10000 ]; do i=$((i + 1)); done; exit 3"],
        "cwd": "/",
        "user": { "uid": 0, "gid": 0 },
        "apparmorProfile": "docker-default",
        "selinuxLabel": "system_u:system_r:container_t:s0",
    });
    let spec = MessageField::some(Any { value: process.to_string().into(), ..Any::default() });
    let (id, exec_id) = ("c1".to_owned(), "e1".to_owned());
    let request = ExecProcessRequest { id, exec_id, spec, ..ExecProcessRequest::default() };
    shim.tasks.exec(patience(), &request).unwrap();
    let started = SystemTime::now();
    start(&shim, "e1");
    let (exit, exec_ended) = wait(&shim, "e1");
    assert_eq!(exit, 3);
    assert!((started..SystemTime::now()).contains(&exec_ended), "{started:?} {exec_ended:?}");
    let after = used(&shim);
    assert!(after > before + 2000, "a loop of the shell's takes more than 2 ms: {before}, {after}");

    let id = "c1".to_owned();
    shim.tasks.pause(patience(), &PauseRequest { id: id.clone(), ..PauseRequest::default() }).unwrap();
    assert_eq!(status(&shim), Status::PAUSED);
    shim.tasks.resume(patience(), &ResumeRequest { id: id.clone(), ..ResumeRequest::default() }).unwrap();
    assert_eq!(status(&shim), Status::RUNNING);

    let killed = SystemTime::now();
    let request = KillRequest { id: id.clone(), signal: 9, ..KillRequest::default() };
    shim.tasks.kill(patience(), &request).unwrap();
    let (exit, ended) = wait(&shim, "");
    assert_eq!(exit, 137);
    assert!((killed..SystemTime::now()).contains(&ended), "{killed:?} {ended:?}");
    let connected = shim.tasks.connect(patience(), &ConnectRequest { id: id.clone(), ..Default::default() });
    let pid = connected.unwrap().shim_pid;
    for exec in ["e1", ""] {
        let (id, exec_id) = (id.clone(), exec.to_owned());
        let request = DeleteRequest { id, exec_id, ..DeleteRequest::default() };
        let deleted = shim.tasks.delete(patience(), &request).unwrap();
        let at = if exec.is_empty() { ended } else { exec_ended };
        let told: SystemTime = deleted.exited_at.unwrap().into();
        assert_eq!(told, at);
    }
    shim.tasks.shutdown(patience(), &ShutdownRequest::default()).unwrap();
    crate::process::wait_for_end_of(pid);

    let heard = heard.0.lock().unwrap();
    let topics: Vec<_> = heard.iter().map(|(topic, _)| topic.strip_prefix("/tasks/").unwrap()).collect();
    let expected =
        ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, expected, "and nothing after it");
    assert_eq!((heard[4].1, heard[7].1), (Some(exec_ended), Some(ended)));

    let mut text = vec![0; 1 << 16];
    let length = log.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    println!("{text}");
    assert!(text.lines().all(|line| line.contains(" runtime=rvm sandbox=p1")), "{text}");
    for said in [
        "level=debug msg=\"asked to add a process, the process e1\" runtime=rvm sandbox=p1 container=c1",
        "level=debug msg=\"the process e1 ended with status 3\" runtime=rvm sandbox=p1 container=c1",
        "level=info msg=\"the container was started\" runtime=rvm sandbox=p1 container=c1",
        "level=info msg=\"the container ended with status 137\" runtime=rvm sandbox=p1 container=c1",
        "level=info msg=\"the container was deleted\" runtime=rvm sandbox=p1 container=c1",
    ] {
        assert!(text.lines().any(|line| line == said), "not said: {said}\n{text}");
    }
    assert!(text.contains("level=info msg=\"the machine, process "), "{text}");
    place.leaves_nothing();
}
