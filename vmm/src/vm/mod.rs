//! The boot recipe: from a [`VmConfig`](rvm_config::VmConfig) to a machine whose processors wait for their first instruction.
//!
//! [`open()`] opens every file, [`build()`] makes the machine out of them; after that no path is looked up again.

mod build;
mod error;
mod open;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
use rvm_config::MemorySize;
use rvm_config::control::Layout;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::machine_event::MachineEvents;
use crate::devices::serial::Serial;
use crate::devices::virtio::balloon::BalloonControl;
use crate::devices::virtio::block::{AttachError, Placeholder};
use crate::devices::virtio::mmio::MmioTransport;
use crate::devices::virtio::{DeviceKind, Interrupt};
use crate::memory;
use crate::vcpu::VcpuThread;

pub use build::{build, port_bus};
pub use error::BuildError;
pub use open::{Parts, open};

/// What directs devices while they run.
#[derive(Default)]
struct Handles {
    balloon: Option<BalloonControl>,
    /// With their places among the devices.
    placeholders: Vec<(usize, Placeholder)>,
}
/// A machine. Its processors are held until [`Vm::resume`].
pub struct Vm {
    /// KVM's end; kept open as long as the machine lives.
    fd: VmFd,
    vcpus: Vec<VcpuThread>,
    virtio: Vec<Arc<Mutex<MmioTransport>>>,
    serial: Arc<Mutex<Serial>>,
    events: MachineEvents,
    vcpu_ended: EventFd,
    memory: GuestMemoryMmap,
    handles: Handles,
    running: bool,
}

impl Vm {
    /// Lets the machine run, from its start or from a pause: devices first, so that they are there.
    pub fn resume(&mut self) {
        for transport in &self.virtio {
            lock(transport).resume();
        }
        self.vcpus.iter().for_each(VcpuThread::resume);
        self.running = true;
    }

    /// Holds the machine: processors first, so that nothing new is asked of the devices; then the devices,
    /// with nothing in flight.
    pub fn pause(&mut self) {
        self.vcpus.iter().for_each(VcpuThread::pause);
        for transport in &self.virtio {
            lock(transport).pause();
        }
        self.running = false;
    }

    /// Whether it runs rather than being held.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// What happened to the machine as a whole.
    pub fn events(&self) -> &MachineEvents {
        &self.events
    }

    /// Readable when a processor ended by itself.
    pub fn vcpu_ended(&self) -> &EventFd {
        &self.vcpu_ended
    }

    /// The processors.
    pub fn vcpus(&self) -> &[VcpuThread] {
        &self.vcpus
    }

    /// The processors, to ask for their end.
    pub fn vcpus_mut(&mut self) -> &mut [VcpuThread] {
        &mut self.vcpus
    }

    /// The virtio devices.
    pub fn virtio(&self) -> &[Arc<Mutex<MmioTransport>>] {
        &self.virtio
    }

    /// What directs the balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonControl> {
        self.handles.balloon.as_ref()
    }

    /// Asks the guest to let its balloon grow or shrink to `size`; answers false if there is none.
    pub fn set_balloon(&self, size: MemorySize) -> bool {
        let transports = self.virtio.iter().map(|transport| lock(transport));
        let transport = transports.into_iter().find(|transport| transport.kind() == DeviceKind::Balloon);
        match (&self.handles.balloon, transport) {
            (Some(balloon), Some(transport)) => {
                balloon.set_target(size, transport.interrupt());
                true
            }
            _ => false,
        }
    }

    /// Puts `files` onto the placeholder disk `id`, for the guest to find.
    pub fn attach_disk(&mut self, id: &str, layout: Layout, files: Vec<OwnedFd>) -> Result<(), AttachError> {
        self.with_placeholder(id, |placeholder, interrupt| placeholder.attach(layout, files, interrupt))
    }

    /// Takes what was attached to the placeholder disk `id` away from the guest.
    pub fn detach_disk(&mut self, id: &str) -> Result<(), AttachError> {
        self.with_placeholder(id, Placeholder::detach)
    }

    fn with_placeholder(
        &mut self,
        id: &str,
        act: impl FnOnce(&mut Placeholder, &Interrupt) -> Result<(), AttachError>,
    ) -> Result<(), AttachError> {
        let found = self.handles.placeholders.iter_mut().find(|(_, placeholder)| placeholder.id() == id);
        let device = found.and_then(|(index, placeholder)| Some((self.virtio.get(*index)?, placeholder)));
        let (transport, placeholder) = device.ok_or_else(|| AttachError::Missing(id.to_owned()))?;
        act(placeholder, lock(transport).interrupt())
    }

    /// Bytes of the host's memory that the guest's takes now.
    pub fn resident_memory(&self) -> u64 {
        memory::resident(&self.memory)
    }

    /// The serial console.
    pub fn serial(&self) -> MutexGuard<'_, Serial> {
        lock(&self.serial)
    }

    /// KVM's handle of the machine.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }
}

/// Locks a device. One whose thread panicked in a register access is still there to be stopped.
pub fn lock<T>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
