//! The agent as a service: what listens, which service gets a request, and how it ends.
//!
//! One thread runs all of it. File-system calls that can take long run on one more thread, one after another
//! ([`blocking`]), so that a disk that does not answer holds up neither streams nor other calls.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crate::container::Runtime;
use rvm_agent_proto::containers_server::{self, ContainersServer};
use rvm_agent_proto::sandbox_server::{self, SandboxServer};
use rvm_agent_proto::storage_server::{self, StorageServer};
use rvm_agent_proto::{RPC_PORT, STREAM_PORT};
use tokio::runtime;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::transport::Server;
use tonic::{Code, Status};
use tower_service::Service;

use crate::containers::Containers;
use crate::init::Guest;
use crate::listen::Listener;
use crate::reaper::Reaper;
use crate::refusal::{Refusal, status};
use crate::sandbox::Sandbox;
use crate::storage::{Mounts, Storage};
use crate::streams::Streams;

/// The largest request: the specification of a container is the largest thing in one, and a generous one takes
/// some hundred KiB.
const MAX_REQUEST: usize = 4 << 20;
/// Requests at a time on one connection: more than the processes one waits for by `Wait`.
const MAX_CALLS: u32 = 4096;
/// The one call that is served after a shutdown.
const HELLO: &str = "/rvm.agent.v1.Sandbox/Hello";

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused what the agent stands on.
    #[error("cannot {step}")]
    Kernel {
        /// What was attempted.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The HTTP/2 server gave up.
    #[error("cannot go on serving vsock port {RPC_PORT}")]
    Serve(#[from] tonic::transport::Error),
}

/// Says what was attempted.
fn at(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { step, source }
}

/// Serves until a shutdown is ordered by a signal. The VMM is told when the host can connect.
pub fn serve(guest: &Guest) -> Result<(), Error> {
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime =
        runtime.enable_all().max_blocking_threads(1).build().map_err(at("set up the event loop"))?;
    runtime.block_on(async {
        let calls = Listener::on(RPC_PORT).map_err(at("listen on the vsock port for calls"))?;
        let stream_port = Listener::on(STREAM_PORT).map_err(at("listen on the vsock port for streams"))?;
        let reaper = Reaper::default();
        let streams = Streams::default();
        let server = Server::builder().max_concurrent_streams(MAX_CALLS);
        let server = server.serve_with_incoming(Services::new(reaper.clone(), streams.clone()), calls);
        guest.tell_ready();
        tokio::select! {
            ended = server => Ok(ended?),
            Err(err) = streams.accept(&stream_port) => Err(at("accept streams")(err)),
            ordered = reaper.until_ordered(&guest.signals) => ordered.map_err(at("wait for signals")),
        }
    })
}

/// The services, each under its name.
#[derive(Clone)]
struct Services {
    sandbox: SandboxServer<Sandbox>,
    storage: StorageServer<Storage>,
    containers: ContainersServer<Containers>,
    shut_down: Arc<AtomicBool>,
}

impl Services {
    fn new(reaper: Reaper, streams: Streams) -> Self {
        let mounts = Mounts::default();
        let containers = Containers::new(Runtime::of_guest(), reaper.clone(), streams.clone());
        let shut_down = Arc::new(AtomicBool::new(false));
        let sandbox =
            Sandbox::new(containers.clone(), mounts.clone(), streams.clone(), Arc::clone(&shut_down));
        let storage = Storage::new(mounts, containers.clone(), reaper, streams);
        Self {
            sandbox: SandboxServer::new(sandbox).max_decoding_message_size(MAX_REQUEST),
            storage: StorageServer::new(storage).max_decoding_message_size(MAX_REQUEST),
            containers: ContainersServer::new(containers).max_decoding_message_size(MAX_REQUEST),
            shut_down,
        }
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if self.shut_down.load(Ordering::Relaxed) && path != HELLO {
            return answer(Status::failed_precondition("the guest has been shut down"));
        }
        match path.split('/').nth(1) {
            Some(sandbox_server::SERVICE_NAME) => self.sandbox.call(request),
            Some(storage_server::SERVICE_NAME) => self.storage.call(request),
            Some(containers_server::SERVICE_NAME) => self.containers.call(request),
            _ => answer(Status::unimplemented(format!("this agent has no call {path}"))),
        }
    }
}

/// A call that ends with this status.
fn answer(status: Status) -> BoxFuture<http::Response<Body>, Infallible> {
    Box::pin(async move { Ok(status.into_http()) })
}

/// Does work that waits for a disk on the other thread.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(err) => Err(status(Code::Internal, &err)),
    }
}
