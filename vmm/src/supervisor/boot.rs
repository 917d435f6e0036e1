//! From a record to a container that waits for its start: network, virtual machine, agent, file systems, container.

use std::io;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{ConfigureRequest, CreateRequest, Share};
use rvm_config::guest_files::{self, GuestFilesError};
use rvm_config::{CachePolicy, Kernel, VmConfig, Vsock};
use rvm_sandbox::agent::{self, Agent, AgentError};
use rvm_sandbox::machine::{Machine, MachineError};
use rvm_sandbox::network::{self, Network, NetworkError, NetworkRequest};
use rvm_sandbox::rootfs::{self, RootFs};
use rvm_sandbox::streams::{self, Stdio, Wanted};

use super::disk::{self, DiskError};
use crate::state::{Directory, Record};

/// The name of the one container in a sandbox of `rvm run`, in the guest.
pub const CONTAINER: &str = "container";

/// The guest's CID; every VM has a socket of its own, so they may be the same.
const GUEST_CID: u32 = 3;

/// Why a container cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// rvm's own files.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// The disk for what the container writes.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The virtual machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent, or the guest's kernel.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The host.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl BootError {
    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { attempt, source: source.into() }
    }
}

/// Opens the network of the sandbox. What fails after that must give it back.
pub async fn open_network(directory: &Directory, record: &Record) -> Result<Network, BootError> {
    let request = NetworkRequest {
        mode: record.network,
        required: record.network_required,
        publish: record.publish.clone(),
        dns: record.dns.clone(),
        vm_id: record.id.clone(),
        hostname: record.hostname.clone(),
    };
    Ok(network::open(request, &runtime_root(directory)).await?)
}

/// The runtime directory that `directory` is in.
pub fn runtime_root(directory: &Directory) -> PathBuf {
    directory.path().ancestors().nth(2).unwrap_or(directory.path()).to_owned()
}

/// Boots the machine of `record`.
pub fn start_machine(
    directory: &Directory,
    record: &Record,
    network: &mut Network,
) -> Result<Machine, BootError> {
    raise_descriptor_limit();
    if let (Some(path), Some(size)) = (record.writable_disk(), record.storage_size) {
        disk::make(&path, size)?;
    }
    let config = machine(directory, record, network)?;
    let program = std::env::current_exe().map_err(BootError::host("find the rvm program"))?;
    let inherited: Vec<_> = network.descriptor().into_iter().collect();
    let machine = Machine::start(&program, &config, &inherited)?;
    network.handed_over();
    Ok(machine)
}

/// Sets the guest up and makes the container in it; its first process waits for its start.
pub async fn make_container(
    directory: &Directory,
    record: &Record,
    machine: &Machine,
    network: &Network,
    size: Option<(u16, u16)>,
) -> Result<(Agent, Stdio), BootError> {
    machine.ready().await?;
    let (agent, _) = Agent::connect(&directory.vsock()).await?;
    configure(&agent, record, network).await?;
    root_fs(record).mount(&agent).await?;
    for (number, volume) in record.volumes.iter().enumerate() {
        let share = Share { tag: share_tag(number), subpath: String::new() };
        let options: &[&str] = if volume.read_only { &["ro"] } else { &[] };
        rootfs::mount(&agent, &share_target(number), Source::Share(share), options).await?;
    }
    let wanted = self::streams(record.interactive, record.tty, size);
    let (tokens, stdio) = streams::open(&agent, wanted).await?;
    let request = CreateRequest {
        id: CONTAINER.to_owned(),
        spec: serde_json::to_vec(&record.spec)
            .map_err(BootError::host("write the container's specification"))?,
        streams: Some(tokens),
        user: Some(record.user.clone().into()),
    };
    agent.containers().create(request).await.map_err(AgentError::refused("create the container"))?;
    Ok((agent, stdio))
}

/// The streams of a process as a command wants them.
pub fn streams(stdin: bool, tty: bool, size: Option<(u16, u16)>) -> Wanted {
    Wanted { stdin, stdout: true, stderr: !tty, size }
}

/// The virtual machine of `record`.
fn machine(directory: &Directory, record: &Record, network: &Network) -> Result<VmConfig, BootError> {
    let (image, initrd) = guest_files::of_containers()?;
    let mut config = VmConfig {
        kernel: Kernel { image: Some(image), initrd: Some(initrd), ..Kernel::default() },
        cpus: record.cpus,
        memory: record.memory,
        vsock: Some(Vsock { cid: GUEST_CID, socket: directory.vsock() }),
        ..VmConfig::default()
    };
    root_fs(record).attach(&mut config);
    for (number, volume) in record.volumes.iter().enumerate() {
        config.shares.push(rvm_config::Share {
            path: volume.source.clone(),
            file: volume.file,
            tag: share_tag(number),
            read_only: volume.read_only,
            cache: CachePolicy::default(),
        });
    }
    config.nets.extend(network.card.clone());
    Ok(config)
}

fn root_fs(record: &Record) -> RootFs {
    RootFs { layers: record.image.layers.clone(), writable: record.writable_disk() }
}

fn share_tag(number: usize) -> String {
    format!("volume{number}")
}

/// Where a volume is in the guest, by its place in the record.
pub fn share_target(number: usize) -> String {
    format!("/run/rvm/volumes/{number}")
}

async fn configure(agent: &Agent, record: &Record, network: &Network) -> Result<(), BootError> {
    let request = ConfigureRequest {
        hostname: Some(record.hostname.clone()),
        sysctls: record.sysctls.clone().into_iter().collect(),
        interfaces: network.interfaces.clone(),
        routes: network.routes.clone(),
        dns: network.dns.clone(),
        hosts: network.hosts.clone(),
        ..agent::first_configuration()?
    };
    agent.sandbox().configure(request).await.map_err(AgentError::refused("be set up"))?;
    Ok(())
}

/// Connections to published ports need descriptors of the supervisor's. The VMM sees to its own.
fn raise_descriptor_limit() {
    // Where it cannot be raised, there are fewer connections at a time.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
}
