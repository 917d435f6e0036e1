//! The boot recipe: from a [`VmConfig`] to a machine whose processors wait for their first instruction.
//!
//! [`open`] opens every file, [`build`] makes the machine out of them; after that no path is looked up again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use rvm_config::control::Layout;
use rvm_config::guest_abi::EVENT_PORT;
use rvm_config::guest_files::{self, GuestFilesError};
use rvm_config::{MemorySize, VmConfig};
use vm_memory::{GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::native::regs::RegsError;
use crate::arch::native::{cpuid, layout, regs};
use crate::boot::{
    self, CmdlineError, FileKind, InitrdError, KernelError, LoadedKernel, Machine, NamedFile, OpenError,
};
use crate::bus::Bus;
use crate::devices::acpi_power::{self, AcpiPower};
use crate::devices::event_port::{self, EventPort};
use crate::devices::i8042::{self, I8042};
use crate::devices::machine_event::MachineEvents;
use crate::devices::pvpanic::{self, PvPanic};
use crate::devices::serial::{self, Serial};
use crate::devices::virtio::balloon::{Balloon, BalloonControl};
use crate::devices::virtio::block::{AttachError, Block, BlockError, Placeholder};
use crate::devices::virtio::fs::{self, Fs, FsError};
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY, REGISTERS_SIZE};
use crate::devices::virtio::net::{Net, NetError};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::{Vsock, VsockError};
use crate::devices::virtio::{DeviceKind, Interrupt, VirtioDevice};
use crate::doctor;
use crate::jail::{Lookups, Within};
use crate::kvm::{self, KvmError};
use crate::memory::{self, MemoryError};
use crate::output_file::OutputFileError;
use crate::seccomp::{Filters, ThreadKind};
use crate::timing::{Phase, Timing};
use crate::vcpu::{self, Vcpu, VcpuThread};

/// Why a machine cannot be made of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] rvm_config::ConfigError),
    /// The command line does not fit.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The files that come with rvm are not where they should be.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// A file of the guest cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd cannot be loaded.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A KVM that is of no use.
    #[error(
        "cannot run a VM on this host: {0}; run rvm on a machine with VMX or SVM, or ask for nested virtualization \
         (`rvm doctor` tells more)"
    )]
    NoHardware(doctor::kvm::Error),
    /// A network card cannot be connected.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A disk cannot be used.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A directory cannot be shared.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The socket device cannot be made.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A processor cannot be set up.
    #[error(transparent)]
    Regs(#[from] RegsError),
    /// A file that is to be written cannot be.
    #[error(transparent)]
    Output(#[from] OutputFileError),
    /// The boot parameters do not fit into guest memory.
    #[error("cannot write boot parameters to guest memory")]
    BootParameters(#[from] GuestMemoryError),
    /// The host refused something small: a descriptor, a thread.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// For `map_err`: the host's refusal of `attempt`.
    pub fn host(attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { attempt, source }
    }
}

/// Everything that a machine is made of, opened.
pub struct Parts {
    /// What is wrong with a file is said on any host, so this comes after those.
    kvm: Result<Kvm, BuildError>,
    kernel: NamedFile,
    initrd: Option<NamedFile>,
    cmdline: String,
    devices: Vec<Box<dyn VirtioDevice>>,
    handles: Handles,
}

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
    if !config.shares.is_empty() {
        let descriptors = fs::open::descriptors(config.shares.len())
            .map_err(BuildError::host("raise the limit of open files"))?;
        for share in &config.shares {
            devices.push(Box::new(Fs::open(share, descriptors)?));
        }
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

/// Makes the machine. `serial_out` takes what the guest writes to its console.
pub fn build(
    config: &VmConfig,
    parts: Parts,
    serial_out: Box<dyn io::Write + Send>,
    filters: &Filters,
    timing: &mut Timing,
) -> Result<Vm, BuildError> {
    let Parts { kvm, kernel, initrd, cmdline, devices, handles } = parts;
    let memory = memory::allocate(config.memory)?;
    timing.mark(Phase::Memory);

    // Much of what KVM does here is waiting (for grace periods of the host's kernel): the kernel is loaded
    // meanwhile.
    let (kvm, loaded) = std::thread::scope(|scope| {
        let memory = &memory;
        let kvm = scope.spawn(move || make_kvm(&kvm?, memory, config.cpus));
        let loaded = load(config, memory, kernel, initrd, &cmdline, devices.len());
        timing.mark(Phase::KernelLoad);
        (kvm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), loaded)
    });
    // What is wrong with a file is said on any host.
    let kernel = loaded?;
    let (fd, vcpu_fds) = kvm?;
    regs::set_boot(&vcpu_fds[0], &memory, kernel.entry)?;
    timing.mark(Phase::Kvm);

    let events = MachineEvents::new().map_err(BuildError::host("make an event"))?;
    let serial = connect_serial(&fd, serial_out)?;
    let ports = Arc::new(port_bus(&events, &serial));
    let (mmio, virtio) = connect_virtio(&fd, devices, &memory, filters)?;
    let vcpu_ended = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::host("make an event"))?;
    let vcpus = spawn_vcpus(vcpu_fds, &ports, &Arc::new(mmio), &vcpu_ended, filters)?;
    timing.mark(Phase::Devices);
    Ok(Vm { fd, vcpus, virtio, serial, events, vcpu_ended, memory, handles, running: false })
}

/// Puts kernel, initrd, command line and boot parameters into `memory`.
fn load(
    config: &VmConfig,
    memory: &GuestMemoryMmap,
    kernel: NamedFile,
    initrd: Option<NamedFile>,
    cmdline: &str,
    virtio_devices: usize,
) -> Result<LoadedKernel, BuildError> {
    let kernel = boot::load_kernel(memory, kernel)?;
    let initrd = initrd.map(|image| boot::load_initrd(memory, image, &kernel, config.memory));
    let machine = Machine {
        size: config.memory,
        initrd: initrd.transpose()?.unwrap_or_default(),
        cmdline_length: boot::write_cmdline(memory, cmdline)?,
        cpus: config.cpus,
        virtio_devices: u8::try_from(virtio_devices).unwrap_or(u8::MAX),
    };
    boot::describe(memory, &kernel, &machine)?;
    Ok(kernel)
}

/// The VM with its memory, interrupt controllers and processors.
///
/// Processors come before any device: registering events first makes the first vCPU slow on some host kernels.
fn make_kvm(kvm: &Kvm, memory: &GuestMemoryMmap, cpus: u8) -> Result<(VmFd, Vec<VcpuFd>), BuildError> {
    let fd = kvm::create_vm(kvm, memory)?;
    let vcpus = create_vcpus(kvm, &fd, cpus)?;
    Ok((fd, vcpus))
}

/// Opens KVM. Where the processor offers no virtualization, KVM may emulate it: then it must show that it is fast enough.
fn open_kvm() -> Result<Kvm, BuildError> {
    let kvm = kvm::open()?;
    if !doctor::kvm::cpu_has_virtualization() {
        doctor::kvm::probe().map_err(BuildError::NoHardware)?;
    }
    Ok(kvm)
}

fn create_vcpus(kvm: &Kvm, fd: &VmFd, count: u8) -> Result<Vec<VcpuFd>, BuildError> {
    let supported = cpuid::supported(kvm).map_err(KvmError::step("say which CPUID it supports"))?;
    (0..count)
        .map(|index| {
            let vcpu = fd.create_vcpu(index.into()).map_err(KvmError::step("create a vCPU"))?;
            // First of all: model-specific registers depend on it.
            vcpu.set_cpuid2(&cpuid::for_cpu(&supported, index, count))
                .map_err(KvmError::step("set CPUID"))?;
            regs::set_common(&vcpu)?;
            Ok(vcpu)
        })
        .collect()
}

fn connect_serial(fd: &VmFd, out: Box<dyn io::Write + Send>) -> Result<Arc<Mutex<Serial>>, BuildError> {
    let irq = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::host("make an event"))?;
    fd.register_irqfd(&irq, serial::GSI).map_err(KvmError::step("connect the serial port's interrupt"))?;
    let serial = Serial::new(out, irq).map_err(BuildError::host("make the serial port"))?;
    Ok(Arc::new(Mutex::new(serial)))
}

/// The devices behind ports: those that every machine has.
pub fn port_bus(events: &MachineEvents, serial: &Arc<Mutex<Serial>>) -> Bus {
    let mut bus = Bus::default();
    let mut attach = |port: u16, ports: u16, device| bus.attach(port.into(), ports.into(), device);
    attach(serial::PORT, serial::PORTS, serial.clone());
    attach(i8042::PORT, i8042::PORTS, Arc::new(Mutex::new(I8042::new(events.clone()))));
    attach(pvpanic::PORT, 1, Arc::new(Mutex::new(PvPanic::new(events.clone()))));
    attach(acpi_power::CONTROL_PORT, acpi_power::PORTS, Arc::new(Mutex::new(AcpiPower::new(events.clone()))));
    attach(EVENT_PORT, event_port::PORTS, Arc::new(Mutex::new(EventPort::new(events.clone()))));
    bus
}

type Transports = Vec<Arc<Mutex<MmioTransport>>>;

/// Puts each device behind its registers, its interrupt line, and an ioeventfd for each queue.
fn connect_virtio(
    fd: &VmFd,
    devices: Vec<Box<dyn VirtioDevice>>,
    memory: &GuestMemoryMmap,
    filters: &Filters,
) -> Result<(Bus, Transports), BuildError> {
    let (mut bus, mut transports) = (Bus::default(), Vec::new());
    let addresses = (layout::VIRTIO_MMIO..).step_by(0x1000);
    for (device, (address, gsi)) in devices.into_iter().zip(addresses.zip(layout::VIRTIO_GSI..)) {
        let confine = filters.confine(thread_kind(device.kind()));
        let transport = MmioTransport::new(device, memory.clone(), confine)
            .map_err(BuildError::host("start a device's thread"))?;
        fd.register_irqfd(transport.interrupt().irqfd(), gsi)
            .map_err(KvmError::step("connect a device's interrupt"))?;
        for (index, kick) in (0_u32..).zip(transport.kicks()) {
            let register = IoEventAddress::Mmio(address + QUEUE_NOTIFY);
            fd.register_ioevent(kick, &register, index).map_err(KvmError::step("connect a queue's kick"))?;
        }
        let transport = Arc::new(Mutex::new(transport));
        bus.attach(address, REGISTERS_SIZE, transport.clone());
        transports.push(transport);
    }
    Ok((bus, transports))
}

const fn thread_kind(device: DeviceKind) -> ThreadKind {
    match device {
        DeviceKind::Net => ThreadKind::Net,
        DeviceKind::Block => ThreadKind::Block,
        DeviceKind::Rng => ThreadKind::Rng,
        DeviceKind::Balloon => ThreadKind::Balloon,
        DeviceKind::Vsock => ThreadKind::Vsock,
        DeviceKind::Fs => ThreadKind::Fs,
    }
}

fn spawn_vcpus(
    fds: Vec<VcpuFd>,
    ports: &Arc<Bus>,
    mmio: &Arc<Bus>,
    ended: &EventFd,
    filters: &Filters,
) -> Result<Vec<VcpuThread>, BuildError> {
    vcpu::prepare_process().map_err(BuildError::host("install the signal handler of vCPU threads"))?;
    let spawn = |(index, fd)| {
        let ended = ended.try_clone()?;
        let vcpu = Vcpu { fd, index, ports: ports.clone(), mmio: mmio.clone() };
        VcpuThread::spawn(vcpu, ended, filters.confine(ThreadKind::Vcpu))
    };
    (0..).zip(fds).map(spawn).collect::<io::Result<_>>().map_err(BuildError::host("start a vCPU's thread"))
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
