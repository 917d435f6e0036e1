//! From a configuration to open files: after this no path is looked up again.

use std::io;

use kvm_ioctls::Kvm;
use rvm_config::VmConfig;
use rvm_config::guest_files;

use super::{BuildError, Handles};
use crate::boot::{self, FileKind, NamedFile};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::fs::{self, Fs};
use crate::devices::virtio::net::Net;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::Vsock;
use crate::doctor;
use crate::jail::{Lookups, Within};
use crate::kvm;

/// Everything that a machine is made of, opened.
pub struct Parts {
    /// What is wrong with a file is said on any host, so this comes after those.
    pub(super) kvm: Result<Kvm, BuildError>,
    pub(super) kernel: NamedFile,
    pub(super) initrd: Option<NamedFile>,
    pub(super) cmdline: String,
    pub(super) devices: Vec<Box<dyn VirtioDevice>>,
    pub(super) handles: Handles,
}

/// Checks `config` and opens the files it names, and those that come with rvm where it names none.
pub fn open(config: &VmConfig) -> Result<Parts, BuildError> {
    config.validate()?;
    let cmdline = boot::compose(&config.kernel)?;
    let (kernel, initrd) = guest_files::paths(&config.kernel)?;
    let kernel = NamedFile::open(FileKind::Kernel, kernel)?;
    let initrd = initrd.map(|path| NamedFile::open(FileKind::Initrd, path)).transpose()?;
    let (devices, handles) = open_devices(config)?;
    Ok(Parts { kvm: open_kvm(), kernel, initrd, cmdline, devices, handles })
}

type Opened = (Vec<Box<dyn VirtioDevice>>, Handles);

/// The virtio devices, in the order in which the guest finds them, and what directs them.
fn open_devices(config: &VmConfig) -> Result<Opened, BuildError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    let mut handles = Handles::default();
    for disk in &config.disks {
        let block = Block::open(disk)?;
        handles.placeholders.extend(block.placeholder(disk).map(|placeholder| (devices.len(), placeholder)));
        devices.push(Box::new(block));
    }
    let descriptors = fs::open::descriptors(config.shares.len())
        .map_err(BuildError::host("set the limit of open files"))?;
    for share in &config.shares {
        devices.push(Box::new(Fs::open(share, descriptors)?));
    }
    for net in &config.nets {
        devices.push(Box::new(Net::open(net)?));
    }
    if let Some(vsock) = &config.vsock {
        devices.push(Box::new(Vsock::open(vsock)?));
    }
    if let Some(balloon) = config.balloon.as_ref().map(|balloon| Balloon::new(balloon, config.memory)) {
        handles.balloon = Some(balloon.control());
        devices.push(Box::new(balloon));
    }
    if config.rng {
        devices.push(Box::new(Rng::new().map_err(BuildError::host("open /dev/urandom"))?));
    }
    Ok((devices, handles))
}

impl Lookups for Parts {
    fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        self.devices.iter_mut().try_for_each(|device| device.relocate(within))
    }
}

/// Opens KVM. Where the processor offers no virtualization, KVM may emulate it: then it must show that it is fast enough.
fn open_kvm() -> Result<Kvm, BuildError> {
    let kvm = kvm::open()?;
    if !doctor::kvm::cpu_has_virtualization() {
        doctor::kvm::probe().map_err(BuildError::NoHardware)?;
    }
    Ok(kvm)
}
