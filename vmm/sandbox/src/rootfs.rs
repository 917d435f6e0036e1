//! How a container's root file system comes to be in the guest: what to attach to the machine, and what to mount.
//!
//! ```text
//!  layers (erofs images)  ─> partitions of a disk ─> /run/rvm/layers/N  ┐
//!                                                                       ├─> overlay ─> /run/rvm/rootfs
//!  what is written        ─> a disk, or memory    ─> /run/rvm/writable  ┘
//! ```

use std::path::PathBuf;

use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{Disk, MountRequest, Overlay, Tmpfs};
use rvm_config::{DiskSource, IoEngine, VmConfig};

use crate::agent::{Agent, AgentError};

/// Serial number of the disk of the layers, a partition each.
const LAYERS_DISK: &str = "layers";
/// Serial number of the disk of what is written.
const WRITABLE_DISK: &str = "writable";
/// Where the layers are mounted, by number.
const LAYERS: &str = "/run/rvm/layers";
const WRITABLE: &str = "/run/rvm/writable";
/// Where the container's root file system is in the guest.
pub const ROOTFS: &str = "/run/rvm/rootfs";

/// What a root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFs {
    /// erofs images, the lowest layer first.
    pub layers: Vec<PathBuf>,
    /// A disk image, formatted as ext4, that takes what the container writes. Without one, the guest's memory does.
    pub writable: Option<PathBuf>,
}

impl RootFs {
    /// Adds what the machine needs for it.
    pub fn attach(&self, machine: &mut VmConfig) {
        machine.disks.push(disk(DiskSource::Parts(self.layers.clone()), true, LAYERS_DISK));
        if let Some(image) = &self.writable {
            machine.disks.push(disk(DiskSource::Path(image.clone()), false, WRITABLE_DISK));
        }
    }

    /// Mounts it at [`ROOTFS`] in the guest.
    pub async fn mount(&self, agent: &Agent) -> Result<(), AgentError> {
        let mut lower = Vec::new();
        for (partition, _) in (1..).zip(&self.layers) {
            let target = format!("{LAYERS}/{partition}");
            let source = Disk {
                id: LAYERS_DISK.to_owned(),
                partition,
                fs_type: "erofs".to_owned(),
                ..Disk::default()
            };
            mount(agent, &target, Source::Disk(source), &["ro"]).await?;
            // The topmost first.
            lower.insert(0, target);
        }
        let writable = match self.writable {
            Some(_) => Source::Disk(Disk {
                id: WRITABLE_DISK.to_owned(),
                partition: 0,
                fs_type: "ext4".to_owned(),
                ..Disk::default()
            }),
            None => Source::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 }),
        };
        mount(agent, WRITABLE, writable, &[]).await?;
        let overlay = Source::Overlay(Overlay { lower, writable: WRITABLE.to_owned() });
        mount(agent, ROOTFS, overlay, &[]).await
    }
}

fn disk(source: DiskSource, read_only: bool, id: &str) -> rvm_config::Disk {
    rvm_config::Disk { source, read_only, id: Some(id.to_owned()), engine: IoEngine::Auto }
}

/// Mounts `source` at `target` in the guest.
pub async fn mount(agent: &Agent, target: &str, source: Source, options: &[&str]) -> Result<(), AgentError> {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    let request = MountRequest { target: target.to_owned(), source: Some(source), options };
    agent.storage().mount(request).await.map_err(AgentError::refused("mount a file system"))?;
    Ok(())
}
