//! The guest as a whole, as the host asks for it: the `Sandbox` service of `agent.proto`.

mod configure;
mod dial;
mod machine;
mod names;
mod resolver;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rvm_agent_proto::{
    ConfigureRequest, ConfigureResponse, DialRequest, DialResponse, HelloRequest, HelloResponse,
    MetricsRequest, MetricsResponse, OnlineRequest, OnlineResponse, PROTOCOL, ShutdownRequest,
    ShutdownResponse, sandbox_server,
};
use tonic::{Request, Response, Status};

use crate::containers::Containers;
use crate::sandbox::names::Names;
use crate::sandbox::resolver::Resolver;
use crate::server::blocking;
use crate::storage::Mounts;
use crate::streams::Streams;

/// The service.
#[derive(Debug)]
pub struct Sandbox {
    containers: Containers,
    mounts: Mounts,
    streams: Streams,
    /// What /run/rvm/etc says; locked while it is written.
    names: Mutex<Names>,
    /// Who is asked about names in the host's place.
    resolver: Mutex<Option<Resolver>>,
    /// Set when only Hello is to be served any more.
    shut_down: Arc<AtomicBool>,
}

impl Sandbox {
    /// The service, which tells the others by `shut_down` that it is over.
    pub fn new(containers: Containers, mounts: Mounts, streams: Streams, shut_down: Arc<AtomicBool>) -> Self {
        Self { containers, mounts, streams, names: Mutex::default(), resolver: Mutex::default(), shut_down }
    }
}

#[tonic::async_trait]
impl sandbox_server::Sandbox for Sandbox {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: machine::kernel()?,
            cpus: machine::cpus()?,
            memory_bytes: machine::memory()?.total,
        }))
    }

    async fn configure(
        &self,
        request: Request<ConfigureRequest>,
    ) -> Result<Response<ConfigureResponse>, Status> {
        let request = request.into_inner();
        let resolver = match request.resolver.as_str() {
            "" => None,
            text => Some(resolver::parse(text)?),
        };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        configure::apply(&request, &mut names)?;
        let mut running = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = resolver
            && running.as_ref().map(Resolver::address) != Some(address)
        {
            *running = Some(Resolver::at(address)?);
        }
        Ok(Response::new(ConfigureResponse {}))
    }

    async fn online(&self, _: Request<OnlineRequest>) -> Result<Response<OnlineResponse>, Status> {
        blocking(machine::bring_online).await?;
        let (cpus, memory) = (machine::cpus()?, machine::memory()?);
        Ok(Response::new(OnlineResponse { cpus, memory_bytes: memory.total }))
    }

    async fn metrics(&self, _: Request<MetricsRequest>) -> Result<Response<MetricsResponse>, Status> {
        Ok(Response::new(machine::metrics()?))
    }

    async fn dial(&self, request: Request<DialRequest>) -> Result<Response<DialResponse>, Status> {
        dial::dial(&self.streams, request.into_inner()).await?;
        Ok(Response::new(DialResponse {}))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        self.shut_down.store(true, Ordering::Relaxed);
        self.containers.end_all();
        let mounts = self.mounts.clone();
        blocking(move || {
            mounts.unmount_all();
            nix::unistd::sync();
            Ok(())
        })
        .await?;
        Ok(Response::new(ShutdownResponse {}))
    }
}
