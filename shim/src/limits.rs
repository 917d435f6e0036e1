//! Limits of containers that change while they run, and those that are the machine's to keep: what it may use of the host's
//! processors and memory nodes is what its containers may together.

use serde_json::Value;

use crate::container::{Container, locked};
use crate::cpusets::CpuSets;
use crate::error::{ShimError, chain};
use crate::pod::Pod;
use crate::shim::Shim;
use crate::spec::hosts;

impl Shim {
    /// Changes a container's limits: `linux.resources` of the OCI runtime specification, as JSON.
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), ShimError> {
        let container = self.container(id).await?;
        // What is no JSON is the guest's to refuse, with the place.
        let Ok(mut parsed) = serde_json::from_slice::<Value>(&resources) else {
            return container.update(resources).await;
        };
        hosts::block_devices(&parsed)?;
        let changes = CpuSets::take(&mut parsed)?;
        if !changes.is_empty() {
            self.change_cpu_sets(&container, changes).await?;
        }
        container.update(parsed.to_string().into_bytes()).await
    }

    async fn change_cpu_sets(&self, container: &Container, changes: CpuSets) -> Result<(), ShimError> {
        let pod = self.pod.lock().await;
        // A machine that is gone uses nothing.
        let Some((pod, _)) = &*pod else { return Ok(()) };
        let (before, had) = (self.cpu_sets(), locked(&container.cpu_sets).clone());
        locked(&container.cpu_sets).change(changes);
        let confined = self.confine(pod, &before, &self.cpu_sets());
        if confined.is_err() {
            *locked(&container.cpu_sets) = had;
        }
        confined
    }

    /// What the containers may use of the host together.
    pub(crate) fn cpu_sets(&self) -> CpuSets {
        CpuSets::union(self.all_containers().iter().map(|container| locked(&container.cpu_sets).clone()))
    }

    /// Has the machine use `after` of the host, if it does not already.
    pub(crate) fn confine(&self, pod: &Pod, before: &CpuSets, after: &CpuSets) -> Result<(), ShimError> {
        match before == after {
            true => Ok(()),
            false => self.place.confine(pod.machine.pid(), after),
        }
    }

    /// The same for what is left of the containers, where nobody waits for an answer.
    pub(crate) fn confine_to_rest(&self, pod: &Pod, before: &CpuSets) {
        if let Err(error) = self.confine(pod, before, &self.cpu_sets()) {
            self.log.warn("", &chain(&error));
        }
    }
}
