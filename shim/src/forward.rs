//! Ports of a pod, as `kubectl port-forward` asks for them: containerd connects to 127.0.0.1 in the pod's network namespace on
//! the host, whose loopback interface is not the guest's.
//!
//! ```text
//!  containerd ── 127.0.0.1:PORT of the namespace ── here ── vsock ── agent ── 127.0.0.1:PORT of the guest
//! ```
//!
//! One listener has the connections to every port ([`crate::lookup`]). It is in the pod's namespace, where programs of the
//! host's administrator are and no packet from outside arrives; the guest can open no connection by it, only answer one.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rvm_agent_proto::DialRequest;
use rvm_sandbox::agent::{Agent, AgentError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::{ShimError, chain};
use crate::log::Log;
use crate::lookup;

/// Connections at a time.
const MOST: usize = 64;
/// How long the guest may take to connect.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections to the pod's ports, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    _ends_with_this: JoinSet<()>,
}

impl Forward {
    /// Leads connections to 127.0.0.1 in the namespace to the guest of this agent.
    pub fn serve(namespace: &Arc<File>, agent: Agent, log: Log) -> Result<Self, ShimError> {
        let failed = || ShimError::host::<io::Error>("listen for connections to the pod's ports");
        let listener = listen(namespace).map_err(failed())?;
        let link = lookup::lead_to(&listener, namespace).map_err(failed())?;
        let listener = TcpListener::from_std(listener).map_err(failed())?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _link = link;
            accept(&listener, &agent, &log).await;
        });
        Ok(Self { _ends_with_this: tasks })
    }
}

/// A listener in the namespace. Its own port is no matter.
fn listen(namespace: &File) -> io::Result<Listener> {
    let listening = || -> io::Result<Listener> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    // The thread ends in that namespace.
    let listened = std::thread::scope(|scope| scope.spawn(listening).join());
    listened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn accept(listener: &TcpListener, agent: &Agent, log: &Log) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        // What has ended is forgotten.
        while connections.try_join_next().is_some() {}
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                log.warn("", &format!("cannot accept a connection to the pod's ports: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (agent, log) = (agent.clone(), log.clone());
        connections.spawn(async move {
            if let Err(error) = carry(connection, &agent).await {
                log.warn("", &chain(&error));
            }
            drop(place);
        });
    }
}

/// Carries a connection to its end.
async fn carry(mut connection: TcpStream, agent: &Agent) -> Result<(), ShimError> {
    let port = connection.local_addr().map_err(ShimError::host("find the port of a connection"))?.port();
    let dialed = async {
        let (stream, guest) = agent.stream().await?;
        let request = DialRequest { port: port.into(), stream };
        agent.sandbox().dial(request).await.map_err(AgentError::refused("connect to a port of the pod"))?;
        Ok(guest)
    };
    let dialed = timeout(PATIENCE, dialed).await;
    let silent = |_| AgentError::Silent { attempt: "connect to a port of the pod", patience: PATIENCE };
    match dialed.map_err(silent).and_then(|dialed| dialed) {
        Ok(mut guest) => {
            // An end that is an error is one as well.
            copy_bidirectional(&mut connection, &mut guest).await.ok();
            Ok(())
        }
        Err(error) => {
            // Whoever waits for the first byte hears that nobody is there.
            connection.set_zero_linger().ok();
            Err(error.into())
        }
    }
}
