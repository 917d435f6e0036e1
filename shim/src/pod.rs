//! A pod: one virtual machine with an agent in it, for all of its containers.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{ConfigureRequest, Share, ShutdownRequest};
use rvm_config::guest_files;
use rvm_config::{CachePolicy, Kernel, MAX_CPUS, MIN_MEMORY, MemorySize, VmConfig, Vsock};
use rvm_sandbox::agent::{self, Agent, AgentError};
use rvm_sandbox::machine::Machine;
use rvm_sandbox::rootfs;

use crate::config::Config;
use crate::disks::Disks;
use crate::error::{ShimError, chain};
use crate::log::Log;
use crate::network::{Network, Wiring};
use crate::place::Place;
use crate::spec::{ContainerSpec, Joinable, SHARE};

/// The guest's CID; every VM has a socket of its own, so they may be the same.
const GUEST_CID: u32 = 3;

/// The tag of the one shared directory.
const TAG: &str = "pod";

/// Memory of a guest beyond its containers', in MiB: kernel, agent.
const GUEST_MEMORY: u64 = 64;
/// Memory of containers without a limit, in MiB.
const DEFAULT_MEMORY: u64 = 448;

/// Network cards for interfaces that come later, unless configured.
const SPARE_CARDS: usize = 3;

/// How long a guest may take to boot. Generous: ten at once on a busy host, or an emulated one; but less than the two minutes
/// after which a kubelet gives a call up, and so would not hear why.
const BOOT_PATIENCE: Duration = Duration::from_secs(110);

/// How long the guest may take to write everything at the end, where nobody says how long.
pub const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// A virtual machine that runs, and whom to speak to in it.
#[derive(Clone)]
pub struct Pod {
    /// The machine.
    pub machine: Machine,
    /// The agent.
    pub agent: Agent,
    /// Its network.
    pub network: Arc<Network>,
    /// Its disks for root file systems.
    pub disks: Arc<Disks>,
    /// Whose namespaces containers share that are to share some, by its number in the guest: the first process of the
    /// first container, or of a sandbox.
    pub first: Option<u32>,
    /// Containers are given the guest's files of names, where they have no others.
    pub gives_names: bool,
}

/// A virtual machine that boots.
pub struct Booting {
    /// The machine.
    pub machine: Machine,
    /// When the VMM was started.
    begin: Instant,
    wiring: Wiring,
    disks: Arc<Disks>,
    place: Place,
}

impl Booting {
    /// Starts the machine of the pod whose first container, or sandbox, is `spec`, with these disks.
    pub fn start(
        place: &Place,
        spec: &ContainerSpec,
        disks: Disks,
        config: &Config,
        log: &Log,
    ) -> Result<Self, ShimError> {
        let spare_cards = config.spare_cards.map_or(SPARE_CARDS, |cards| cards.0);
        let config = VmConfig { disks: disks.configuration(), ..machine(place, spec, config)? };
        let program = program()?;
        let begin = Instant::now();
        let (wiring, machine) = Wiring::make(&spec.network()?, spare_cards, |cards| {
            let config = VmConfig { nets: cards.configuration(), ..config };
            Ok(Machine::start(&program, &config, &cards.descriptors())?)
        })?;
        place.set_vmm(machine.pid())?;
        if let Some(group) = spec.cgroup()
            && let Err(error) = place.enter_cgroup(&group, machine.pid())
        {
            // A host may keep its groups to itself; the pod runs all the same.
            log.warn("", &chain(&error));
        }
        // From the first moment on; that this cannot be is an error.
        let sets = spec.cpu_sets()?;
        if !sets.is_empty() {
            place.confine(machine.pid(), &sets)?;
        }
        // The shim is as precious as containerd, nearly; the guest is not. What may not be set is as it was inherited.
        fs::write(format!("/proc/{}/oom_score_adj", machine.pid()), "0").ok();
        Ok(Self { machine, begin, wiring, disks: Arc::new(disks), place: place.clone() })
    }

    /// Waits until the guest works, and sets it up, as `setup` says and as every guest.
    pub async fn ready(self, setup: ConfigureRequest, log: &Log) -> Result<Pod, ShimError> {
        let ready = tokio::time::timeout(BOOT_PATIENCE, self.machine.ready()).await;
        ready.map_err(|_| AgentError::Silent { attempt: "boot", patience: BOOT_PATIENCE })??;
        log.debug(
            "",
            format_args!("the guest was ready {} ms after the VMM's start", self.begin.elapsed().as_millis()),
        );
        let (agent, _) = Agent::connect(&self.place.vsock()).await?;
        let ConfigureRequest { time_ns, entropy, .. } = agent::first_configuration()?;
        let request = ConfigureRequest { time_ns, entropy, ..setup };
        agent.sandbox().configure(request).await.map_err(AgentError::refused("be set up"))?;
        let share = Share { tag: TAG.to_owned(), subpath: String::new() };
        rootfs::mount(&agent, SHARE, Source::Share(share), &[]).await?;
        log.debug("", format_args!("the guest was set up {} ms after it", self.begin.elapsed().as_millis()));
        let network = self.wiring.connect(self.place, agent.clone(), self.machine.clone(), log.clone());
        let Self { machine, disks, .. } = self;
        Ok(Pod { machine, agent, network, disks, first: None, gives_names: false })
    }
}

impl Pod {
    /// Whose namespaces its containers can share, once there is one.
    pub fn joinable(&self) -> Option<Joinable> {
        self.first.map(|first| Joinable { vmm: self.machine.pid(), first })
    }

    /// Has the guest write everything, and ends the machine. Gives the guest's reason if it did not, or not in time.
    pub async fn stop(&self, patience: Duration) -> Option<String> {
        let mut guest = self.agent.sandbox();
        let written = tokio::time::timeout(patience, guest.shutdown(ShutdownRequest {})).await;
        self.machine.stop().await;
        match written {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(status.message().to_owned()),
            Err(_) => Some(format!("it took longer than {} s", patience.as_secs())),
        }
    }
}

/// The machine of the pod whose first container, or sandbox, is `spec`.
fn machine(place: &Place, spec: &ContainerSpec, config: &Config) -> Result<VmConfig, ShimError> {
    let chosen = config.for_pod(|name| spec.annotation(name))?;
    let (kernel, image) = match (&config.kernel, &config.image) {
        (Some(kernel), Some(image)) => (kernel.clone(), image.clone()),
        (kernel, image) => {
            let (own_kernel, own_image) = guest_files::of_containers()?;
            (kernel.clone().unwrap_or(own_kernel), image.clone().unwrap_or(own_image))
        }
    };
    let parameters = [&config.kernel_parameters, &chosen.kernel_parameters];
    let parameters: Vec<&str> =
        parameters.into_iter().flatten().map(|parameters| parameters.0.as_str()).collect();
    let most = |cpus: u64| u8::try_from(cpus.clamp(1, MAX_CPUS.into())).unwrap_or(MAX_CPUS);
    let cpus = match (chosen.cpus, spec.cpus()) {
        (Some(cpus), _) => cpus.0,
        (None, Some(limit)) => most(limit),
        (None, None) => config.cpus.map_or(1, |cpus| cpus.0).max(most(spec.cpus_asked_for().unwrap_or(1))),
    };
    Ok(VmConfig {
        kernel: Kernel {
            image: Some(kernel),
            initrd: Some(image),
            cmdline: parameters.join(" "),
            ..Kernel::default()
        },
        cpus,
        memory: chosen.memory.unwrap_or_else(|| memory(spec.memory_limit(), config)),
        vsock: Some(Vsock { cid: GUEST_CID, socket: place.vsock() }),
        shares: vec![rvm_config::Share {
            path: place.shown(),
            file: false,
            tag: TAG.to_owned(),
            read_only: false,
            cache: CachePolicy::default(),
        }],
        ..VmConfig::default()
    })
}

/// Memory of a machine whose containers have this limit in bytes: theirs and the guest's own.
fn memory(limit: Option<u64>, config: &Config) -> MemorySize {
    let mib = |size: Option<MemorySize>, default| size.map_or(default, |size| size.mib().into());
    let containers =
        limit.map_or_else(|| mib(config.memory, DEFAULT_MEMORY), |bytes| bytes.div_ceil(1 << 20));
    let all = containers.saturating_add(mib(config.guest_memory, GUEST_MEMORY)).max(MIN_MEMORY.mib().into());
    MemorySize::from_mib(u32::try_from(all).unwrap_or(u32::MAX))
}

/// The VMM's program, which comes with the shim.
fn program() -> Result<PathBuf, ShimError> {
    let own = std::env::current_exe().map_err(ShimError::host("find the shim's program"))?;
    let program = own.with_file_name("rvm");
    match program.exists() {
        true => Ok(program),
        false => Err(ShimError::path::<io::Error>("find", program)(io::ErrorKind::NotFound.into())),
    }
}
