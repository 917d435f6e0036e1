//! The sandbox service, call by call: the shim is spoken to directly ([`super::direct`]). containerd's own use of it is in
//! [`super::cri`].

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use containerd_shim_protos::api::{ConnectRequest, DeleteRequest, Mount, ShutdownRequest, WaitRequest};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use containerd_shim_protos::sandbox_sync::SandboxClient;

use containerd_shim_protos::ttrpc::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::direct::{Container, Shim, patience, wait};
use super::network::{Namespace, ip};
use super::place::{Place, parent};

/// CRI's options of a sandbox.
fn pod(value: &[u8]) -> MessageField<Any> {
    let type_url = "runtime.v1.PodSandboxConfig".to_owned();
    MessageField::some(Any { type_url, value: value.to_vec(), ..Any::default() })
}

/// Waits for the end of a container; gives its exit status.
fn end_of(shim: &Shim, id: &str) -> u32 {
    let request = WaitRequest { id: id.to_owned(), ..WaitRequest::default() };
    shim.tasks.wait(patience(), &request).unwrap().exit_status
}

#[test]
fn a_sandbox_runs_without_containers_and_takes_them_in_until_it_is_stopped() {
    let Some(place) = Place::new("sandbox") else { return };
    let namespace = Namespace::new("rvm-sandbox");
    ip("link add rvm-sbfar type veth peer name eth0 netns rvm-sandbox");
    ip("address add 10.181.0.1/24 dev rvm-sbfar");
    ip("link set rvm-sbfar up");
    namespace.ip("address add 10.181.0.5/24 dev eth0");
    namespace.ip("link set eth0 up");
    let network = "/run/netns/rvm-sandbox";

    let shim = Shim::start("sandbox", "p1");
    // hostname = 2, dns_config = 4 { servers = 1 }, linux = 8 { resources = 5 { memory_limit_in_bytes = 4 } }: 128 MiB.
    let options = pod(b"\x12\x03box\x22\x0c\x0a\x0a192.0.2.53\x42\x07\x2a\x05\x20\x80\x80\x80\x40");
    let order = CreateSandboxRequest { netns_path: network.to_owned(), options, ..shim.order() };
    assert_eq!(shim.create(&order), Ok(()));
    let status = shim.status().unwrap();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_NOTREADY", 0));
    let platform = shim.platform().unwrap().platform.unwrap();
    assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "amd64"));

    let started = shim.begin().unwrap();
    let own = fs::metadata(format!("/proc/{}/ns/net", started.pid)).unwrap();
    assert_eq!(own.st_ino(), fs::metadata(network).unwrap().st_ino());
    let status = shim.status().unwrap();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", started.pid));
    assert_eq!((&status.created_at, status.exited_at.is_none()), (&started.created_at, true));
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    assert_eq!(info["pid"], started.pid);
    assert_eq!(shim.ping(), Ok(()));
    // By this containerd that is started again finds it.
    let request = ConnectRequest { id: "p1".to_owned(), ..ConnectRequest::default() };
    assert_eq!(shim.tasks.connect(patience(), &request).unwrap().task_pid, started.pid);
    let metrics = shim.metrics().unwrap().metrics.unwrap();
    assert_eq!(
        (metrics.id.as_str(), metrics.data.type_url.as_str()),
        ("p1", "io.containerd.cgroups.v2.Metrics")
    );
    let metrics = Metrics::parse_from_bytes(&metrics.data.value).unwrap();
    let mib = metrics.memory.usage_limit >> 20;
    // The pod's 128 and the guest's 64, less what its kernel keeps from everybody.
    assert!((128..=192).contains(&mib) && metrics.cpu.usage_usec > 0, "{metrics}");
    assert!(metrics.network.iter().any(|network| network.name == "eth0"), "{metrics}");

    let script = "hostname; cat /etc/resolv.conf /etc/hosts; ping -c 1 10.181.0.1; ps";
    let first = Container::new("c1", script, Some(started.pid));
    shim.run(&first);
    assert_eq!(end_of(&shim, "c1"), 0, "{}", first.said());
    for expected in ["box\n", "nameserver 192.0.2.53\n", "127.0.1.1\tbox\n", "1 packets received", "kswapd0"]
    {
        assert!(first.said().contains(expected), "{expected:?} is not in:\n{}", first.said());
    }
    let request = DeleteRequest { id: "c1".to_owned(), ..DeleteRequest::default() };
    shim.tasks.delete(patience(), &request).unwrap();
    assert_eq!(shim.status().unwrap().state, "SANDBOX_READY");

    let second = Container::new("c2", "ps; exec sleep 1000", None);
    shim.run(&second);
    assert_eq!(shim.update(&second, "example.org/by"), Ok(()));
    assert_eq!(shim.update(&second, "io.rvm.memory"), Err(Code::UNIMPLEMENTED), "a machine stays as it is");
    let waits = SandboxClient::new(shim.another());
    let waits = std::thread::spawn(move || wait(&waits, "p1"));
    assert_eq!(shim.stop(), Ok(()));
    let end = waits.join().unwrap().unwrap();
    assert_eq!(end.exit_status, 0);
    assert_eq!(end_of(&shim, "c2"), 137);
    let status = shim.status().unwrap();
    assert_eq!((status.state.as_str(), &status.exited_at), ("SANDBOX_NOTREADY", &end.exited_at));
    assert_eq!((shim.stop(), shim.wait().unwrap().exit_status), (Ok(()), 0));
    assert_eq!(shim.ping(), Err(Code::FAILED_PRECONDITION));
    assert_eq!(shim.create_container(&Container::new("c3", "true", None)), Err(Code::FAILED_PRECONDITION));
    assert!(!namespace.ip("link").contains("rvm0"));
    let request = DeleteRequest { id: "c2".to_owned(), ..DeleteRequest::default() };
    assert_eq!(shim.tasks.delete(patience(), &request).unwrap().exit_status, 137);

    assert_eq!(shim.shut_down(), Ok(()));
    place.leaves_nothing();
}

#[test]
fn calls_out_of_order_and_orders_that_cannot_be_are_refused_each_by_its_code() {
    let Some(place) = Place::new("sandboxorder") else { return };
    let shim = Shim::start("sandboxorder", "p1");
    assert_eq!(shim.begin().err(), Some(Code::NOT_FOUND));
    assert_eq!(shim.status().err(), Some(Code::NOT_FOUND));
    assert_eq!(shim.platform().err(), Some(Code::NOT_FOUND));
    assert_eq!(shim.wait().err(), Some(Code::NOT_FOUND));
    assert_eq!(shim.metrics().err(), Some(Code::NOT_FOUND));
    assert_eq!((shim.ping(), shim.stop()), (Err(Code::NOT_FOUND), Err(Code::NOT_FOUND)));

    let with = |change: &dyn Fn(&mut CreateSandboxRequest)| {
        let mut order = shim.order();
        change(&mut order);
        shim.create(&order)
    };
    assert_eq!(with(&|order| order.sandbox_id = "p2".to_owned()), Err(Code::INVALID_ARGUMENT));
    assert_eq!(with(&|order| order.rootfs = vec![Mount::default()]), Err(Code::UNIMPLEMENTED));
    assert_eq!(with(&|order| order.options = pod(b"\x12\xff")), Err(Code::INVALID_ARGUMENT));
    // linux = 8 { security_context = 2 { namespace_options = 1 { network = 1: NODE } } }
    assert_eq!(
        with(&|order| order.options = pod(b"\x42\x06\x12\x04\x0a\x02\x08\x02")),
        Err(Code::UNIMPLEMENTED)
    );
    let annotation = ("io.rvm.cpus".to_owned(), "2".to_owned());
    assert_eq!(with(&|order| order.annotations = [annotation.clone()].into()), Err(Code::UNIMPLEMENTED));
    let mistyped = ("io.rvm.cpu".to_owned(), "2".to_owned());
    assert_eq!(with(&|order| order.annotations = [mistyped.clone()].into()), Err(Code::INVALID_ARGUMENT));
    fs::write(shim.bundle.path().join("config.json"), "{").unwrap();
    assert_eq!(shim.create(&shim.order()), Err(Code::INVALID_ARGUMENT));
    // What `ctr sandboxes` gives one.
    fs::write(shim.bundle.path().join("config.json"), r#"{"ociVersion":""}"#).unwrap();
    assert_eq!(shim.create(&shim.order()), Ok(()));
    assert_eq!(shim.create(&shim.order()), Err(Code::ALREADY_EXISTS));

    assert_eq!(shim.create_container(&Container::new("c1", "true", None)), Err(Code::FAILED_PRECONDITION));
    assert_eq!(shim.ping(), Err(Code::FAILED_PRECONDITION));
    assert_eq!(shim.metrics().err(), Some(Code::FAILED_PRECONDITION));
    // That of tasks is not a sandbox's.
    shim.tasks.shutdown(patience(), &ShutdownRequest::default()).unwrap();
    assert_eq!(shim.status().unwrap().state, "SANDBOX_NOTREADY");
    assert_eq!((shim.stop(), shim.stop()), (Ok(()), Ok(())));
    assert_eq!(shim.begin().err(), Some(Code::FAILED_PRECONDITION));
    assert_eq!(shim.wait().unwrap().exit_status, 0);
    assert_eq!(shim.shut_down(), Ok(()));
    place.leaves_nothing();

    let never_created = Shim::start("sandboxorder", "p2");
    assert_eq!(never_created.shut_down(), Ok(()));
    let never_started = Shim::start("sandboxorder", "p3");
    assert_eq!(never_started.create(&never_started.order()), Ok(()));
    assert_eq!(never_started.shut_down(), Ok(()));
    place.leaves_nothing();
}

#[test]
fn a_sandbox_that_cannot_start_says_why_and_leaves_nothing() {
    let Some(place) = Place::new("sandboxboot") else { return };
    let shim = Shim::start("sandboxboot", "p1");
    let network = "/run/netns/rvm-nowhere".to_owned();
    assert_eq!(shim.create(&CreateSandboxRequest { netns_path: network, ..shim.order() }), Ok(()));
    assert!(shim.begin().is_err());
    assert_eq!(shim.status().unwrap().state, "SANDBOX_NOTREADY");
    assert_eq!(shim.shut_down(), Ok(()));
    place.leaves_nothing();
}

#[test]
fn a_sandbox_is_shut_down_with_whatever_runs_in_it() {
    let Some(place) = Place::new("sandboxdown") else { return };
    let shim = Shim::start("sandboxdown", "p1");
    assert_eq!(shim.create(&shim.order()), Ok(()));
    shim.begin().unwrap();
    assert!(Path::new("/sys/fs/cgroup/sandboxdown/p1").exists());
    let container = Container::new("c1", "exec sleep 1000", None);
    shim.run(&container);
    assert_eq!(shim.shut_down(), Ok(()));
    place.leaves_nothing();
}

#[test]
fn a_killed_machine_is_the_end_of_its_sandbox() {
    let Some(place) = Place::new("sandboxvmm") else { return };
    let shim = Shim::start("sandboxvmm", "p1");
    assert_eq!(shim.create(&shim.order()), Ok(()));
    let pid = shim.begin().unwrap().pid;
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(shim.wait().unwrap().exit_status, 137);
    let status = shim.status().unwrap();
    assert_eq!((status.state.as_str(), status.exited_at.is_some()), ("SANDBOX_NOTREADY", true));
    assert_eq!(shim.ping(), Err(Code::FAILED_PRECONDITION));
    let container = Container::new("c1", "true", None);
    assert_eq!(shim.create_container(&container), Err(Code::FAILED_PRECONDITION));
    assert_eq!((shim.stop(), shim.wait().unwrap().exit_status), (Ok(()), 137));
    assert_eq!(shim.shut_down(), Ok(()));
    place.leaves_nothing();
}

#[test]
fn delete_removes_a_sandbox_whose_shim_was_killed() {
    let Some(place) = Place::new("sandboxshim") else { return };
    let shim = Shim::start("sandboxshim", "p1");
    assert_eq!(shim.create(&shim.order()), Ok(()));
    let vmm = shim.begin().unwrap().pid;
    kill(Pid::from_raw(parent(vmm.try_into().unwrap())), Signal::SIGKILL).unwrap();
    let ran = shim.delete();
    assert_eq!(ran.status, Some(0), "{ran:?}");
    place.leaves_nothing();
}
