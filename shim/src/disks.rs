//! The disks of a pod's machine that take images of root file systems: placeholders, there from the boot, each of
//! which is given an image when a container needs one.
//!
//! ```text
//!  image ── opened here, locked by the VMM ──> disk ── mounted by the guest ──> /run/rvm/roots/N/I
//!                                                              overlay of them ──> /run/rvm/roots/N/rootfs
//! ```
//!
//! Images that nobody writes to are partitions of one disk; each of the others is a disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::OFlag;
use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{Disk, Overlay, UnmountRequest};
use rvm_config::control::Layout;
use rvm_config::{DiskSource, IoEngine};
use rvm_sandbox::agent::{Agent, AgentError};
use rvm_sandbox::machine::Machine;
use rvm_sandbox::rootfs;

use crate::config::Config;
use crate::container::locked;
use crate::error::{ShimError, chain};
use crate::images::{Image, Images, Root};

/// Where root file systems are in the guest, by the containers' numbers.
const ROOTS: &str = "/run/rvm/roots";

/// Root file systems for containers that come later to a pod.
const SPARE_ROOTS: usize = 3;

/// How long the guest may take to mount an image: one that was not unmounted has a journal to be read first.
const MOUNT_PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to write what is left, and unmount.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(30);

/// The disks.
#[derive(Debug, Default)]
pub struct Disks {
    disks: Mutex<Vec<Placeholder>>,
}

#[derive(Debug)]
struct Placeholder {
    /// Its serial number.
    id: String,
    read_only: bool,
    taken: bool,
}

/// The root file system of a container, as the guest has mounted it.
#[derive(Debug)]
pub struct Mounted {
    /// Where it is in the guest.
    pub root: String,
    /// All that is mounted for it, in the order of mounting.
    targets: Vec<String>,
    /// The disks that its images are on.
    disks: Vec<String>,
}

impl Disks {
    /// Those of a pod whose first container's root file system is `images`: for it, and for as many more like it at a
    /// time as the host's configuration says. Without it, a pod that is `named` has some to spare, and a container that
    /// is likely to stay alone has none: each disk costs the boot 2 ms (docs/budgets.md). Where the first one has
    /// directories, or is not known, images of any kind can come, if the configuration says how many.
    pub fn for_pod(images: Option<&Images>, named: bool, config: &Config) -> Self {
        let spare = config.spare_roots.map(|roots| roots.0);
        let (containers, (read_only, writable)) = match images {
            Some(images) => (1 + spare.unwrap_or(if named { SPARE_ROOTS } else { 0 }), images.count()),
            None => (spare.unwrap_or(0), (1, 1)),
        };
        let kinds = [(read_only.min(1), true), (writable, false)];
        let all = kinds.into_iter().flat_map(|(count, read_only)| {
            let name = if read_only { "layers" } else { "written" };
            (0..count.saturating_mul(containers)).map(move |number| Placeholder {
                id: format!("{name}-{number}"),
                read_only,
                taken: false,
            })
        });
        Self { disks: Mutex::new(all.collect()) }
    }

    /// What the machine needs for them.
    pub fn configuration(&self) -> Vec<rvm_config::Disk> {
        let placeholder = |disk: &Placeholder| rvm_config::Disk {
            source: DiskSource::Placeholder,
            read_only: disk.read_only,
            id: Some(disk.id.clone()),
            engine: IoEngine::Auto,
        };
        locked(&self.disks).iter().map(placeholder).collect()
    }

    /// A disk that is free: the one that has been so for longest.
    fn take(&self, read_only: bool) -> Result<String, ShimError> {
        let mut disks = locked(&self.disks);
        let free = disks.iter().position(|disk| disk.read_only == read_only && !disk.taken);
        let mut disk = free.map(|number| disks.remove(number)).ok_or_else(|| ShimError::Unsupported {
            what: "one more root file system of images in this pod".to_owned(),
            reason: "its machine has no disk left for one: it got them when it was booted, for containers like its \
                     first (`spare-roots` in /etc/rvm/config.toml)",
        })?;
        disk.taken = true;
        let id = disk.id.clone();
        disks.push(disk);
        Ok(id)
    }

    fn free(&self, id: &str) {
        let mut disks = locked(&self.disks);
        if let Some(number) = disks.iter().position(|disk| disk.id == id) {
            let disk = disks.remove(number);
            disks.push(Placeholder { taken: false, ..disk });
        }
    }

    /// Has the guest of `machine` mount a root file system for the container of this number.
    pub async fn mount(
        &self,
        images: &Images,
        number: u32,
        machine: &Machine,
        agent: &Agent,
    ) -> Result<Mounted, ShimError> {
        let mut mounted = Mounted { root: String::new(), targets: Vec::new(), disks: Vec::new() };
        let place = format!("{ROOTS}/{number}");
        let made = async {
            let sources = self.attach(images, &mut mounted.disks, machine).await?;
            mounted.mount(images, sources, &place, machine, agent).await
        };
        match made.await {
            Ok(root) => Ok(Mounted { root, ..mounted }),
            Err(error) => {
                // The first error is the one to tell.
                self.unmount(&mounted, machine, agent).await.ok();
                Err(error)
            }
        }
    }

    /// Gives the machine the images, on disks that `taken` has then; answers where in the guest they are.
    async fn attach(
        &self,
        images: &Images,
        taken: &mut Vec<String>,
        machine: &Machine,
    ) -> Result<Vec<Disk>, ShimError> {
        let (mut layers, mut sources) = (Vec::new(), Vec::new());
        for image in &images.images {
            let (file, size_bytes) = open(image)?;
            let mut source = Disk { fs_type: image.kind.clone(), ..Disk::default() };
            if image.read_only {
                layers.push(file);
                source.partition = u32::try_from(layers.len()).unwrap_or(u32::MAX);
            } else {
                source.id = self.give(image, Layout::Whole, vec![file], taken, machine).await?;
                source.size_bytes = size_bytes;
            }
            sources.push(source);
        }
        if let Some(first) = images.images.iter().find(|image| image.read_only) {
            let id = self.give(first, Layout::Parts, layers, taken, machine).await?;
            sources
                .iter_mut()
                .filter(|source| source.partition != 0)
                .for_each(|source| source.id.clone_from(&id));
        }
        Ok(sources)
    }

    /// Puts files, those of `image` and of others like it, onto a disk that is free; gives its serial number.
    async fn give(
        &self,
        image: &Image,
        layout: Layout,
        files: Vec<OwnedFd>,
        taken: &mut Vec<String>,
        machine: &Machine,
    ) -> Result<String, ShimError> {
        let id = self.take(image.read_only)?;
        match machine.attach_disk(&id, layout, files).await {
            Ok(()) => {
                taken.push(id.clone());
                Ok(id)
            }
            Err(error) => {
                self.free(&id);
                Err(ShimError::Image {
                    attempt: "attach",
                    path: image.path.clone(),
                    reason: chain(&error),
                    console: String::new(),
                })
            }
        }
    }

    /// Has the guest write all that is left, and unmount; then takes the images away from it, whatever it did.
    pub async fn unmount(
        &self,
        mounted: &Mounted,
        machine: &Machine,
        agent: &Agent,
    ) -> Result<(), ShimError> {
        let unmounted = mounted.unmount(agent).await;
        let mut given_back = Ok(());
        for id in &mounted.disks {
            match machine.detach_disk(id).await {
                Ok(()) if unmounted.is_ok() => self.free(id),
                // The guest may still write to this disk what was for the image that it had.
                Ok(()) => {}
                Err(error) => given_back = Err(error),
            }
        }
        unmounted?;
        Ok(given_back?)
    }
}

/// Opens an image as it is to be used, and gives its length in bytes; the VMM locks it.
fn open(image: &Image) -> Result<(OwnedFd, u64), ShimError> {
    let failed = |attempt| ShimError::path::<io::Error>(attempt, &image.path);
    let is_device = fs::metadata(&image.path).is_ok_and(|data| data.file_type().is_block_device());
    // A device that the host has mounted is not for the guest, and what the guest has is not for the host to mount.
    let flags = if is_device { OFlag::O_EXCL } else { OFlag::empty() };
    let file =
        OpenOptions::new().read(true).write(!image.read_only).custom_flags(flags.bits()).open(&image.path);
    let mut file = file.map_err(failed("open the image"))?;
    // The metadata of a block device does not tell.
    let length = file.seek(SeekFrom::End(0)).map_err(failed("measure the image"))?;
    Ok((file.into(), length))
}

impl Mounted {
    /// Mounts `sources`, which are the disks of the images, below `place`; gives the root.
    async fn mount(
        &mut self,
        images: &Images,
        sources: Vec<Disk>,
        place: &str,
        machine: &Machine,
        agent: &Agent,
    ) -> Result<String, ShimError> {
        let targets: Vec<String> = (0..sources.len()).map(|number| format!("{place}/{number}")).collect();
        let target = |number: usize| targets.get(number).cloned().unwrap_or_default();
        for ((image, source), target) in images.images.iter().zip(sources).zip(&targets) {
            let mut options: Vec<&str> = image.options.iter().map(String::as_str).collect();
            if image.read_only {
                options.push("ro");
            }
            self.one(agent, target, Source::Disk(source), &options, image, machine).await?;
        }
        let (writable, lower, options) = match &images.root {
            Root::Image(number) => return Ok(target(*number)),
            Root::Overlay { writable, lower, options } => (writable, lower, options),
        };
        let overlay = Overlay {
            lower: lower.iter().map(|number| target(*number)).collect(),
            writable: writable.map_or_else(String::new, target),
        };
        let root = format!("{place}/rootfs");
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let topmost =
            writable.or_else(|| lower.first().copied()).and_then(|number| images.images.get(number));
        if let Some(topmost) = topmost {
            self.one(agent, &root, Source::Overlay(overlay), &options, topmost, machine).await?;
        }
        Ok(root)
    }

    /// Mounts one source. What is in `image`, a stranger's data, may be what it fails on: then the guest's kernel has
    /// more to say of it, or has ended with it.
    async fn one(
        &mut self,
        agent: &Agent,
        target: &str,
        source: Source,
        options: &[&str],
        image: &Image,
        machine: &Machine,
    ) -> Result<(), ShimError> {
        let mounted =
            tokio::time::timeout(MOUNT_PATIENCE, rootfs::mount(agent, target, source, options)).await;
        let error = match mounted {
            Ok(Ok(())) => {
                self.targets.push(target.to_owned());
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => AgentError::Silent { attempt: "mount it", patience: MOUNT_PATIENCE },
        };
        Err(ShimError::Image {
            attempt: "mount",
            path: image.path.clone(),
            reason: chain(&error),
            console: machine.last_lines().await?,
        })
    }

    async fn unmount(&self, agent: &Agent) -> Result<(), AgentError> {
        let all = async {
            for target in self.targets.iter().rev() {
                let request = UnmountRequest { target: target.clone() };
                let unmounted = agent.storage().unmount(request).await;
                unmounted.map_err(AgentError::refused("unmount the root file system"))?;
            }
            Ok(())
        };
        let silent =
            |_| AgentError::Silent { attempt: "unmount the root file system", patience: UNMOUNT_PATIENCE };
        tokio::time::timeout(UNMOUNT_PATIENCE, all).await.map_err(silent)?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn images(kinds: &[bool]) -> Images {
        let image = |read_only: &bool| Image {
            path: "/image".into(),
            kind: "ext4".to_owned(),
            read_only: *read_only,
            options: Vec::new(),
        };
        Images { images: kinds.iter().map(image).collect(), root: Root::Image(0) }
    }

    fn config(spare: Option<i64>) -> Config {
        let spare_roots = spare.map(|number| number.try_into().unwrap());
        Config { spare_roots, ..Config::default() }
    }

    /// How many disks for layers there are, and how many to write to.
    fn count(images: Option<&Images>, named: bool, spare: Option<i64>) -> (usize, usize) {
        let disks = Disks::for_pod(images, named, &config(spare)).configuration();
        let read_only = disks.iter().filter(|disk| disk.read_only).count();
        (read_only, disks.len() - read_only)
    }

    #[test]
    fn there_are_as_many_disks_as_a_pods_containers_need() {
        let (one, layered) = (images(&[false]), images(&[false, true, true, true]));
        assert_eq!(count(Some(&one), false, None), (0, 1));
        assert_eq!(count(Some(&layered), false, None), (1, 1));
        assert_eq!(count(Some(&layered), true, None), (4, 4));
        assert_eq!(count(Some(&layered), true, Some(0)), (1, 1));
        assert_eq!(count(Some(&one), false, Some(4)), (0, 5));
        assert_eq!(count(None, true, None), (0, 0));
        assert_eq!(count(None, false, Some(2)), (2, 2));
    }

    #[test]
    fn a_disk_is_taken_by_one_and_the_one_longest_free_is_next() {
        let disks = Disks::for_pod(Some(&images(&[false])), false, &config(Some(1)));
        assert_eq!(disks.take(false).unwrap(), "written-0");
        assert_eq!(disks.take(false).unwrap(), "written-1");
        let error = disks.take(false).unwrap_err().to_string();
        assert!(error.contains("no disk left"), "{error}");
        assert!(disks.take(true).is_err());
        disks.free("written-1");
        disks.free("written-0");
        assert_eq!(disks.take(false).unwrap(), "written-1");
    }
}
