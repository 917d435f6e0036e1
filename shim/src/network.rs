//! The pod's network: a namespace on the host that CNI plugins or Docker fill, and cards of the guest that take the
//! places of the interfaces there.
//!
//! Who connects the container does so before the shim is asked to create it, or between that and its start, or while it
//! runs. So the guest is told what there is at every start, and then whenever something changes.

use std::fs::{self, File};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use nix::sched::{CloneFlags, setns, unshare};
use rvm_agent_proto::ConfigureRequest;
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::machine::Machine;
use rvm_sandbox::network::{Cards, Changes, refuse_others};
use tokio::sync::Mutex;

use crate::error::{ShimError, chain};
use crate::forward::Forward;
use crate::log::Log;
use crate::names::{self, Names};
use crate::place::Place;
use crate::spec::NetworkNamespace;

/// The network namespace of a thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A pod's network, before there is a guest to tell of it.
pub struct Wiring {
    cards: Cards,
    namespace: File,
}

/// A pod's network.
pub struct Network {
    place: Place,
    agent: Agent,
    log: Log,
    namespace: Arc<File>,
    /// Held until the guest knows, so that it hears things in their order.
    state: Mutex<State>,
    /// Set where it is a pod of Kubernetes: connections to its ports, where the host can lead them to it.
    forward: OnceLock<Option<Forward>>,
}

struct State {
    cards: Cards,
    /// Answers the guest's questions about names, once there is a server to ask.
    names: Option<Names>,
    /// The file by which programs find name servers.
    resolv_conf: Option<PathBuf>,
}

/// Which namespace it is: its file's device and number, namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u64, u64);

impl Id {
    fn of(file: fs::Metadata) -> Self {
        Self(file.st_dev(), file.st_ino())
    }
}

impl Wiring {
    /// Makes the cards of a machine, and has `start` start it with them in their namespace. A namespace that is new has
    /// cards for `spare` interfaces.
    pub fn make<T: Send>(
        namespace: &NetworkNamespace,
        spare: usize,
        start: impl FnOnce(&Cards) -> Result<T, ShimError> + Send,
    ) -> Result<(Self, T), ShimError> {
        // A process is born in the namespace of the thread that starts it.
        let runtime = tokio::runtime::Handle::current();
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(namespace)?;
                // One that others made has been filled.
                let is_new = *namespace == NetworkNamespace::New;
                let mut cards = Cards::make(if is_new { spare } else { 0 })?;
                if !is_new {
                    refuse_others()?;
                }
                let namespace = File::open(OWN).map_err(ShimError::path("open", OWN))?;
                let _runtime = runtime.enter();
                let started = start(&cards)?;
                cards.handed_over();
                Ok((Self { cards, namespace }, started))
            });
            thread.join()
        });
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The network of the pod at `place`, whose guest has this agent. Changes are followed until the machine ends.
    pub fn connect(mut self, place: Place, agent: Agent, machine: Machine, log: Log) -> Arc<Network> {
        let changes = self.cards.changes();
        let network = Arc::new(Network {
            place,
            agent,
            log,
            namespace: Arc::new(self.namespace),
            state: Mutex::new(State { cards: self.cards, names: None, resolv_conf: None }),
            forward: OnceLock::new(),
        });
        if let Some(changes) = changes {
            let following = follow(changes, Arc::downgrade(&network));
            tokio::spawn(async move {
                tokio::select! {
                    () = following => {}
                    _ = machine.ended() => {}
                }
            });
        }
        network
    }
}

impl Network {
    /// Refuses the container whose network is not the pod's.
    pub fn check(&self, namespace: &NetworkNamespace) -> Result<(), ShimError> {
        let NetworkNamespace::At(path) = namespace else { return Ok(()) };
        let named = Id::of(path.metadata().map_err(ShimError::path("find the network namespace", path))?);
        match named == Id::of(self.namespace.metadata().map_err(ShimError::path("find", OWN))?) {
            true => Ok(()),
            false => Err(ShimError::Unsupported {
                what: format!("the network namespace '{}'", path.display()),
                reason: "it is not that of the container's pod, and containers of one pod share theirs",
            }),
        }
    }

    /// The namespace is one pod's of Kubernetes alone: connections to 127.0.0.1 there come to the guest, and who answers at a
    /// loopback address is one of the pod's containers.
    pub fn is_a_pods_alone(&self) {
        let forward = Forward::serve(&self.namespace, self.agent.clone(), self.log.clone());
        // A host may have no BPF; the pod runs all the same.
        let told = forward.map_err(|error| {
            self.log.warn("", &format!("port-forward does not reach this pod: {}", chain(&error)));
        });
        self.forward.set(told.ok()).ok();
    }

    /// Tells the guest what the network is now, for a container that is started, which finds name servers by the file
    /// `resolv_conf` if it has one.
    pub async fn ready_for(&self, resolv_conf: Option<&Path>) -> Result<(), ShimError> {
        if let Some(path) = resolv_conf {
            self.state.lock().await.resolv_conf = Some(path.to_owned());
        }
        self.tell().await
    }

    /// Tells the guest what the network is now.
    async fn tell(&self) -> Result<(), ShimError> {
        let mut state = self.state.lock().await;
        if let Some(adopted) = state.cards.adopt()? {
            let request = ConfigureRequest {
                interfaces: adopted.interfaces,
                routes: adopted.routes,
                neighbours: adopted.neighbours,
                ..ConfigureRequest::default()
            };
            let told = self.agent.sandbox().configure(request).await;
            told.map_err(AgentError::refused("take the network"))?;
        }
        self.serve_names(&mut state).await
    }

    /// Where a name server answers at a loopback address, which is one of the namespace and not of the guest, leads the
    /// guest's questions there.
    async fn serve_names(&self, state: &mut State) -> Result<(), ShimError> {
        if self.forward.get().is_some() {
            return Ok(());
        }
        let (None, Some(path)) = (&state.names, &state.resolv_conf) else { return Ok(()) };
        let text = fs::read_to_string(path).map_err(ShimError::path("read", path))?;
        let Some(server) = names::on_loopback(&text) else { return Ok(()) };
        state.names = Some(Names::serve(&self.place, self.namespace.clone(), server, self.log.clone())?);
        let request = ConfigureRequest { resolver: server.to_string(), ..ConfigureRequest::default() };
        let told = self.agent.sandbox().configure(request).await;
        told.map_err(AgentError::refused("answer questions about names"))?;
        Ok(())
    }
}

async fn follow(changes: Changes, network: Weak<Network>) {
    let Ok(mut watch) = changes.watch() else { return };
    while watch.next().await.is_ok() {
        let Some(network) = network.upgrade() else { return };
        if let Err(error) = network.tell().await {
            network.log.warn("", &chain(&error));
        }
    }
}

/// Has this thread enter the namespace.
fn enter(namespace: &NetworkNamespace) -> Result<(), ShimError> {
    match namespace {
        NetworkNamespace::New => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(ShimError::host("make a network namespace"))
        }
        NetworkNamespace::At(path) => {
            let attempt = "enter the network namespace";
            let file = File::open(path).map_err(ShimError::path(attempt, path))?;
            setns(file, CloneFlags::CLONE_NEWNET).map_err(ShimError::path(attempt, path))
        }
    }
}
