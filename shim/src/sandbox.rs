//! A sandbox: a pod that is there before any of its containers, and until it is stopped, as containerd's sandbox API has
//! it (`sandboxer = "shim"` of CRI). Without one, a pod's first container boots the machine and the last one ends it.
//!
//! ```text
//!            Create ──> Created ── Start ──> Running ── Stop, or the machine's own end ──> Ended
//!                          └───────────────── Stop, Shutdown ─────────────────────────────┘
//! ```
//!
//! Shutdown ends what runs, and the shim. Containers are made and removed as in any pod, by the calls of tasks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rvm_agent_proto::{ConfigureRequest, HelloRequest, MetricsRequest, MetricsResponse, PROTOCOL};
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::machine::Machine;
use rvm_sandbox::network::dns_of_host;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::container::{FORGET_PATIENCE, locked};
use crate::error::ShimError;
use crate::log::Log;
use crate::place::Held;
use crate::pod::{Pod, SHUTDOWN_PATIENCE};
use crate::pod_config::PodConfig;
use crate::process::{Exit, KILLED};
use crate::shim::Shim;
use crate::spec::{ContainerSpec, NetworkNamespace};

/// How long the guest may take to answer a question about itself.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Whose namespaces containers share that are to share some: the guest's own, by its first process. No container need
/// live as long as the pod.
const GUESTS_OWN: u32 = 1;

/// What a sandbox is made of.
pub struct Order {
    /// Its name.
    pub id: String,
    /// Its bundle, which need not have a specification.
    pub bundle: PathBuf,
    /// How a root file system of its own is mounted.
    pub rootfs: Vec<Mount>,
    /// CRI's `PodSandboxConfig`, if CRI asks for it.
    pub options: Any,
    /// The network namespace that others made and filled; empty: one is to be made.
    pub network: PathBuf,
    /// Of the caller, and of CRI.
    pub annotations: HashMap<String, String>,
}

/// How far a sandbox came.
#[derive(Clone, Debug)]
pub enum State {
    /// It waits for its start.
    Created,
    /// Its machine runs.
    Running(Running),
    /// It has ended; with when it was started, if it was.
    Ended(Exit, Option<SystemTime>),
}

/// What there is of a sandbox that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its process on the host: the VMM.
    pub pid: u32,
    /// When the guest worked.
    pub since: SystemTime,
    agent: Agent,
}

/// A sandbox.
pub struct Sandbox {
    id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What its machine is made by.
    spec: ContainerSpec,
    /// What its guest is told first.
    setup: ConfigureRequest,
    /// Containers find names by files of the guest, where nobody gives them others.
    names: bool,
    state: watch::Sender<State>,
    /// Somebody asked for its end.
    is_wanted_gone: AtomicBool,
}

impl State {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running(_) => "running",
            Self::Ended(..) => "ended",
        }
    }
}

impl Sandbox {
    fn new(order: Order, namespace: &str) -> Result<Self, ShimError> {
        if !order.rootfs.is_empty() {
            return Err(ShimError::Unsupported {
                what: "a root file system of a sandbox".to_owned(),
                reason: "it is a virtual machine with an image of its own; give the file system to a container",
            });
        }
        let pod = PodConfig::read(&order.options)?;
        let own = ContainerSpec::read_any(&order.bundle)?;
        let spec = specification(&order, own.as_ref(), pod.as_ref(), namespace);
        let setup = ConfigureRequest {
            hostname: spec.hostname().map(str::to_owned),
            sysctls: pod.as_ref().map(PodConfig::sysctls).unwrap_or_default(),
            dns: pod.as_ref().map(|pod| pod.dns().unwrap_or_else(dns_of_host)),
            ..ConfigureRequest::default()
        };
        let (id, bundle, names) = (order.id, order.bundle, pod.is_some());
        let state = watch::Sender::new(State::Created);
        Ok(Self { id, bundle, spec, setup, names, state, is_wanted_gone: AtomicBool::new(false) })
    }

    /// How far it came.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Where its network is.
    pub fn network(&self) -> Option<PathBuf> {
        match self.spec.network() {
            Ok(NetworkNamespace::At(path)) => Some(path),
            _ => None,
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Exit {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, State::Ended(..))).await;
        match ended.as_deref() {
            Ok(State::Ended(exit, _)) => *exit,
            // The sender is ours.
            _ => Exit { status: KILLED, at: SystemTime::now() },
        }
    }

    fn refuse(&self, attempt: &'static str) -> ShimError {
        ShimError::State { attempt, id: self.id.clone(), state: self.state().name() }
    }

    /// What runs of it. Refuses `attempt` otherwise.
    pub fn running(&self, attempt: &'static str) -> Result<Running, ShimError> {
        match self.state() {
            State::Running(running) => Ok(running),
            _ => Err(self.refuse(attempt)),
        }
    }
}

/// What a sandbox is asked to be, in the words of a specification: of CRI's `pod`, else of the specification that it may
/// have itself.
fn specification(
    order: &Order,
    own: Option<&ContainerSpec>,
    pod: Option<&PodConfig>,
    namespace: &str,
) -> ContainerSpec {
    let of_own = |pointer: &str| own.and_then(|own| own.at(pointer)).cloned();
    let network = match own.map(ContainerSpec::network) {
        _ if !order.network.as_os_str().is_empty() => Some(order.network.clone()),
        Some(Ok(NetworkNamespace::At(path))) => Some(path),
        _ => None,
    };
    let mut annotations = of_own("/annotations").and_then(|all| all.as_object().cloned()).unwrap_or_default();
    let shares = pod.and_then(PodConfig::shares);
    annotations.extend(shares.map(|(name, shares)| (name.to_owned(), Value::from(shares))));
    let more = pod.map(|pod| &pod.annotations).into_iter().chain([&order.annotations]).flatten();
    annotations.extend(more.map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
    let hostname = pod.map(|pod| pod.hostname.clone()).filter(|name| !name.is_empty());
    let cgroup = pod.and_then(|pod| pod.cgroups_path(&order.id)).map(Value::from);
    let cgroup = cgroup.or_else(|| of_own("/linux/cgroupsPath").filter(|path| path != ""));
    ContainerSpec::from(json!({
        "hostname": hostname.map(Value::from).or_else(|| of_own("/hostname")),
        "annotations": annotations,
        "linux": {
            "namespaces": [{ "type": "network", "path": network }],
            "cgroupsPath": cgroup.unwrap_or_else(|| format!("/{namespace}/{}", order.id).into()),
            "resources": pod.and_then(PodConfig::resources).or_else(|| of_own("/linux/resources")),
        },
    }))
}

impl Shim {
    /// Makes the pod a sandbox, to be started.
    pub async fn create_sandbox(&self, order: Order) -> Result<(), ShimError> {
        let pod = self.pod.lock().await;
        if order.id != self.own.id {
            let reason = format!("it is '{}', and this is the shim of '{}'", order.id, self.own.id);
            return Err(ShimError::Invalid { what: "the sandbox's name", reason });
        }
        if self.own_sandbox().is_some() {
            return Err(ShimError::Exists { what: "sandbox", id: order.id });
        }
        if pod.is_some() {
            return Err(ShimError::Exists { what: "pod, with containers in it,", id: order.id });
        }
        let sandbox = Sandbox::new(order, &self.own.namespace)?;
        // What is wrong in it is told here rather than at the start.
        sandbox.spec.check_annotations()?;
        sandbox.spec.cpu_sets()?;
        Config::load(self.own.config.as_deref())?.for_pod(|name| sandbox.spec.annotation(name))?;
        *locked(&self.sandbox) = Some(Arc::new(sandbox));
        Ok(())
    }

    /// The pod's sandbox, whose name is `id`.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, ShimError> {
        let sandbox = self.own_sandbox().filter(|sandbox| sandbox.id == id);
        sandbox.ok_or_else(|| ShimError::NotFound { what: "sandbox", id: id.to_owned() })
    }

    /// Boots the sandbox's machine.
    pub async fn start_sandbox(&self, id: &str) -> Result<Running, ShimError> {
        let sandbox = self.sandbox(id)?;
        let mut slot = self.pod.lock().await;
        if !matches!(sandbox.state(), State::Created) {
            return Err(sandbox.refuse("start the sandbox"));
        }
        let config = self.own.config.as_deref();
        let (mut pod, held) = self.boot(&sandbox.spec, None, config, sandbox.setup.clone()).await?;
        pod.first = Some(GUESTS_OWN);
        pod.gives_names = sandbox.names;
        if sandbox.names && sandbox.network().is_some() {
            pod.network.is_a_pods_alone();
        }
        let running = Running { pid: pod.machine.pid(), since: SystemTime::now(), agent: pod.agent.clone() };
        sandbox.state.send_replace(State::Running(running.clone()));
        tokio::spawn(attend(sandbox, pod.machine.clone(), running.since, self.log.clone()));
        *slot = Some((pod, held));
        Ok(running)
    }

    /// Ends the sandbox and whatever runs in it, if it has not ended. The guest may take so long to write everything.
    pub async fn stop_sandbox(&self, id: &str, patience: Option<Duration>) -> Result<(), ShimError> {
        let sandbox = self.sandbox(id)?;
        let mut slot = self.pod.lock().await;
        self.end_sandbox(&sandbox, &mut slot, patience.unwrap_or(SHUTDOWN_PATIENCE)).await;
        Ok(())
    }

    async fn end_sandbox(&self, sandbox: &Sandbox, slot: &mut Option<(Pod, Held)>, patience: Duration) {
        if let Some((pod, _held)) = slot.take() {
            sandbox.is_wanted_gone.store(true, Ordering::Relaxed);
            if let Some(reason) = pod.stop(patience).await {
                self.log.warn("", &format!("the guest did not write all of its data: {reason}"));
            }
            sandbox.ended().await;
            for container in self.all_containers() {
                // Of one whose end the guest did not tell, it is the machine's.
                tokio::time::timeout(FORGET_PATIENCE, container.init.ended()).await.ok();
            }
            self.remove_place();
        } else if matches!(sandbox.state(), State::Created) {
            sandbox.state.send_replace(State::Ended(Exit { status: 0, at: SystemTime::now() }, None));
        }
    }

    /// Ends the sandbox, forgets its containers, and has the shim end.
    pub async fn shut_down_sandbox(&self, id: &str) -> Result<(), ShimError> {
        let mut slot = self.pod.lock().await;
        match self.sandbox(id) {
            Ok(sandbox) => self.end_sandbox(&sandbox, &mut slot, SHUTDOWN_PATIENCE).await,
            // One that could not be created is shut down as well.
            Err(_) if id == self.own.id && slot.is_none() => {}
            Err(error) => return Err(error),
        }
        for container in self.all_containers() {
            container.unmount(&self.log);
        }
        self.over.notify_one();
        Ok(())
    }

    /// Asks the sandbox's guest whether it is well.
    pub async fn ping_sandbox(&self, id: &str) -> Result<(), ShimError> {
        let running = self.sandbox(id)?.running("reach the sandbox")?;
        let mut guest = running.agent.sandbox();
        answer("say hello", guest.hello(HelloRequest { protocol: PROTOCOL })).await?;
        Ok(())
    }

    /// What the sandbox as a whole uses.
    pub async fn sandbox_metrics(&self, id: &str) -> Result<MetricsResponse, ShimError> {
        let running = self.sandbox(id)?.running("measure the sandbox")?;
        answer("tell what it uses", running.agent.sandbox().metrics(MetricsRequest {})).await
    }
}

/// What a guest answers, if it does in time.
async fn answer<T>(
    attempt: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ShimError> {
    let answer = tokio::time::timeout(ANSWER_PATIENCE, call).await;
    let answer = answer.map_err(|_| AgentError::Silent { attempt, patience: ANSWER_PATIENCE })?;
    Ok(answer.map_err(AgentError::refused(attempt))?.into_inner())
}

/// Waits for the end of a sandbox's machine.
async fn attend(sandbox: Arc<Sandbox>, machine: Machine, since: SystemTime, log: Log) {
    let end = machine.ended().await;
    let status = match sandbox.is_wanted_gone.load(Ordering::Relaxed) {
        true => 0,
        false => {
            log.warn("", &end.to_string());
            KILLED
        }
    };
    sandbox.state.send_replace(State::Ended(Exit { status, at: SystemTime::now() }, Some(since)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn order(bundle: &std::path::Path) -> Order {
        Order {
            id: "p1".to_owned(),
            bundle: bundle.to_owned(),
            rootfs: Vec::new(),
            options: Any::default(),
            network: PathBuf::new(),
            annotations: HashMap::new(),
        }
    }

    #[test]
    fn a_sandbox_of_which_nothing_is_said_has_a_network_and_a_control_group_of_its_own() {
        let bundle = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(order(bundle.path()), "ns").unwrap();
        assert_eq!(sandbox.spec.network().unwrap(), NetworkNamespace::New);
        assert_eq!(sandbox.spec.at("/linux/cgroupsPath"), Some(&json!("/ns/p1")));
        assert_eq!(
            (sandbox.spec.memory_limit(), sandbox.spec.cpus(), sandbox.spec.hostname()),
            (None, None, None)
        );
        assert!(!sandbox.names && sandbox.setup.dns.is_none());
    }

    #[test]
    fn what_cri_says_goes_over_the_specification() {
        let bundle = tempfile::tempdir().unwrap();
        let resources = json!({ "memory": { "limit": 1 << 30 } });
        let own = json!({
            "hostname": "own",
            "annotations": { "a": "own", "b": "own" },
            "linux": { "resources": resources, "cgroupsPath": "/own/group" },
        });
        std::fs::write(bundle.path().join("config.json"), own.to_string()).unwrap();
        // hostname = 2, annotations = 7 { key = 1, value = 2 }, linux = 8 { resources = 5 { cpu_shares = 3 } }.
        let mut value = b"\x12\x03box\x3a\x08\x0a\x01a\x12\x03pod".to_vec();
        value.extend(b"\x42\x05\x2a\x03\x18\x80\x18");
        let options = Any { type_url: "runtime.v1.PodSandboxConfig".to_owned(), value, ..Any::default() };
        let network = PathBuf::from("/run/netns/x");
        let sandbox =
            Sandbox::new(Order { options, network: network.clone(), ..order(bundle.path()) }, "ns").unwrap();
        let spec = &sandbox.spec;
        assert_eq!(
            (spec.hostname(), spec.annotation("a"), spec.annotation("b")),
            (Some("box"), Some("pod"), Some("own"))
        );
        assert_eq!((spec.memory_limit(), sandbox.network()), (Some(1 << 30), Some(network)));
        assert_eq!((spec.cpus(), spec.cpus_asked_for()), (None, Some(3)));
        assert_eq!(spec.at("/linux/cgroupsPath"), Some(&json!("/own/group")));
        assert!(sandbox.names && sandbox.setup.dns.is_some());
    }

    #[test]
    fn specifications_that_are_none_do_no_harm() {
        let bundle = tempfile::tempdir().unwrap();
        for text in ["null", "[]", "7", "{\"linux\":3,\"annotations\":[],\"hostname\":{}}"] {
            std::fs::write(bundle.path().join("config.json"), text).unwrap();
            let sandbox = Sandbox::new(order(bundle.path()), "ns").unwrap();
            assert_eq!(sandbox.spec.network().unwrap(), NetworkNamespace::New, "{text}");
        }
        std::fs::write(bundle.path().join("config.json"), "{").unwrap();
        assert!(Sandbox::new(order(bundle.path()), "ns").is_err());
    }

    #[test]
    fn a_root_file_system_of_a_sandbox_is_refused_by_name() {
        let bundle = tempfile::tempdir().unwrap();
        let refused = Sandbox::new(Order { rootfs: vec![Mount::default()], ..order(bundle.path()) }, "ns");
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("root file system of a sandbox"), "{error}");
    }
}
