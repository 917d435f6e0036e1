//! How containers are made: in a machine that is booted for the first, and what is undone where that fails.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use containerd_shim_protos::api::Mount;
use rvm_agent_proto::{ConfigureRequest, CreateRequest};
use rvm_sandbox::agent::AgentError;
use rvm_sandbox::streams;

use super::{Shim, or_its_end, watch_memory};
use crate::config::Config;
use crate::container::{Container, attend, in_time};
use crate::cpusets::CpuSets;
use crate::disks::Disks;
use crate::error::{ShimError, chain};
use crate::hooks::{Moment, Subject};
use crate::images::Images;
use crate::logger;
use crate::mounts::{Files, Root};
use crate::place::Held;
use crate::pod::{Booting, Pod};
use crate::process::Process;
use crate::spec::{ContainerSpec, NetworkNamespace};
use crate::stdio::Paths;

/// What a container is made of.
pub struct Order {
    /// Its name.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// How its root file system is mounted; nothing: it is mounted already.
    pub rootfs: Vec<Mount>,
    /// Where its first process's streams are.
    pub paths: Paths,
    /// The configuration of its pod, where it is not the host's.
    pub config: Option<PathBuf>,
}

impl Shim {
    /// Makes a container, in the machine, which is booted for the first one where there is no sandbox.
    pub async fn create(&self, order: Order) -> Result<Arc<Container>, ShimError> {
        let begin = Instant::now();
        let mut pod = self.pod.lock().await;
        if self.containers().contains_key(&order.id) {
            return Err(ShimError::Exists { what: "container", id: order.id });
        }
        if let Some(sandbox) = self.own_sandbox() {
            sandbox.running("create a container in the sandbox")?;
        }
        let spec = ContainerSpec::read(&order.bundle)?;
        spec.check_annotations()?;
        let hooks = spec.hooks()?;
        hooks.refuse_gpus()?;
        let images = Images::of(&order.rootfs)?;
        let made = match &mut *pod {
            Some((pod, _)) => self.add(pod, &spec, &order, images.as_ref()).await,
            none => self.boot_with(none, &spec, &order, images.as_ref()).await,
        };
        let container = match made {
            Ok(container) => Arc::new(container),
            Err(error) => {
                // What was done before it failed is undone: nobody deletes what was never made.
                if let Err(error) = hooks.settle(&order.id, &order.bundle).await {
                    self.log.warn(&order.id, &chain(&error));
                }
                return Err(error);
            }
        };
        self.containers().insert(order.id.clone(), container.clone());
        let (bundle, took) = (order.bundle.display(), begin.elapsed().as_millis());
        self.log.info(&order.id, format_args!("the container was created from {bundle} in {took} ms"));
        self.teller.created(&order, container.pid).told().await;
        tokio::spawn(attend(
            container.clone(),
            container.init.clone(),
            self.teller.clone(),
            self.log.clone(),
        ));
        Ok(container)
    }

    /// With a new machine. Whatever fails, nothing is left.
    async fn boot_with(
        &self,
        slot: &mut Option<(Pod, Held)>,
        spec: &ContainerSpec,
        order: &Order,
        images: Option<&Images>,
    ) -> Result<Container, ShimError> {
        // What is refused of it takes no machine.
        spec.clone().for_guest(0, None)?;
        let hostname = spec.hostname().map(str::to_owned);
        let setup = ConfigureRequest { hostname, ..ConfigureRequest::default() };
        let (mut pod, held) = self.boot(spec, images, order.config.as_deref(), setup).await?;
        if spec.pod().is_some() && matches!(spec.network()?, NetworkNamespace::At(_)) {
            pod.network.is_a_pods_alone();
        }
        match self.add(&mut pod, spec, order, images).await {
            Ok(container) => {
                *slot = Some((pod, held));
                Ok(container)
            }
            Err(error) => {
                let error = or_its_end(&pod.machine, error).await;
                pod.machine.stop().await;
                self.remove_place();
                Err(error)
            }
        }
    }

    /// Boots the machine of the pod whose first container, or sandbox, is `spec`. Whatever fails, nothing is left.
    pub(crate) async fn boot(
        &self,
        spec: &ContainerSpec,
        images: Option<&Images>,
        config: Option<&Path>,
        setup: ConfigureRequest,
    ) -> Result<(Pod, Held), ShimError> {
        let begin = Instant::now();
        let config = Config::load(config)?;
        let held = self.place.make()?;
        let disks = Disks::for_pod(images, spec.pod().is_some(), &config);
        let booted = match Booting::start(&self.place, spec, disks, &config, &self.log) {
            Ok(booting) => self.ready(booting, setup).await,
            Err(error) => Err(error),
        };
        match booted {
            Ok(pod) => {
                let (pid, took) = (pod.machine.pid(), begin.elapsed().as_millis());
                self.log.info("", format_args!("the machine, process {pid}, booted in {took} ms"));
                let containers = self.containers.clone();
                tokio::spawn(watch_memory(pod.agent.clone(), containers, self.teller.clone()));
                Ok((pod, held))
            }
            Err(error) => {
                self.remove_place();
                Err(error)
            }
        }
    }

    async fn ready(&self, booting: Booting, setup: ConfigureRequest) -> Result<Pod, ShimError> {
        let machine = booting.machine.clone();
        let ready = match booting.ready(setup, &self.log).await {
            Ok(pod) => self.place.set_shim(&self.own.namespace, &self.own.socket).map(|()| pod),
            Err(error) => Err(error),
        };
        match ready {
            Ok(pod) => Ok(pod),
            Err(error) => {
                let error = or_its_end(&machine, error).await;
                machine.stop().await;
                Err(error)
            }
        }
    }

    /// Makes a container in a machine that runs.
    async fn add(
        &self,
        pod: &mut Pod,
        spec: &ContainerSpec,
        order: &Order,
        images: Option<&Images>,
    ) -> Result<Container, ShimError> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        pod.network.check(&spec.network()?)?;
        let mut guest = spec.clone().for_guest(number, pod.joinable())?;
        if pod.gives_names {
            guest.give_names();
        }
        let here = spec.root(&order.bundle);
        let root = match images {
            Some(_) => Root::InGuest,
            None if order.rootfs.is_empty() => Root::At(&here),
            None => Root::Mounts(&order.rootfs),
        };
        let files = Files::mount(&self.place, number, &order.bundle, root, &guest.binds)?;
        let init = Process::new(&order.id, "", order.paths.clone(), Vec::new());
        let hooks = spec.hooks()?;
        let subject = Subject { id: &order.id, pid: Some(pod.machine.pid()), bundle: &order.bundle };
        let mut mounted = None;
        let before = self.cpu_sets();
        let added = async {
            hooks.owe(&order.bundle)?;
            self.confine(pod, &before, &CpuSets::union([before.clone(), guest.cpu_sets.clone()]))?;
            hooks.run(Moment::Creating, subject).await?;
            if let Some(images) = images {
                let root = pod.disks.mount(images, number, &pod.machine, &pod.agent).await?;
                guest.spec["root"]["path"] = mounted.insert(root).root.as_str().into();
            }
            self.add_to_guest(pod, &guest.spec, guest.sysctls, &init).await
        };
        match added.await {
            Ok(first) => pod.first = pod.first.or(Some(first)),
            Err(error) => {
                // The first error is the one to tell.
                if let Some(mounted) = &mounted {
                    pod.disks.unmount(mounted, &pod.machine, &pod.agent).await.ok();
                }
                files.unmount().ok();
                self.confine_to_rest(pod, &CpuSets::union([before, guest.cpu_sets]));
                return Err(error);
            }
        }
        Ok(Container {
            bundle: order.bundle.clone(),
            pid: pod.machine.pid(),
            init: Arc::new(init),
            execs: Mutex::default(),
            paused: AtomicBool::new(false),
            files,
            mounted,
            machine: pod.machine.clone(),
            agent: pod.agent.clone(),
            network: pod.network.clone(),
            streams: self.streams.clone(),
            namespace: self.own.namespace.clone(),
            resolv_conf: spec.resolv_conf().map(Path::to_owned),
            cpu_sets: Mutex::new(guest.cpu_sets),
            hooks,
        })
    }

    async fn add_to_guest(
        &self,
        pod: &Pod,
        spec: &serde_json::Value,
        sysctls: HashMap<String, String>,
        init: &Process,
    ) -> Result<u32, ShimError> {
        if !sysctls.is_empty() {
            let request = ConfigureRequest { sysctls, ..ConfigureRequest::default() };
            pod.agent.sandbox().configure(request).await.map_err(AgentError::refused("set sysctls"))?;
        }
        let subject = logger::Subject { namespace: &self.own.namespace, id: init.id() };
        let opened = init.paths.open(&self.streams, subject).await?;
        let attempt = "create the container";
        let created = async {
            let (tokens, stdio) = streams::open(&pod.agent, init.paths.wanted(init.size())).await?;
            let request = CreateRequest {
                id: init.container.clone(),
                spec: serde_json::to_vec(spec).map_err(ShimError::host("write the specification"))?,
                streams: Some(tokens),
                user: None,
            };
            let made = pod.agent.containers().create(request).await.map_err(AgentError::refused(attempt))?;
            Ok((made.into_inner().pid, stdio))
        };
        let (pid, stdio) = in_time(attempt, created).await?;
        init.set_carried(opened.carry(stdio, &self.log));
        Ok(pid)
    }
}
