//! From open files to a machine whose processors wait for their first instruction.

use std::io;
use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use rvm_config::VmConfig;
use rvm_config::guest_abi::EVENT_PORT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{BuildError, Parts, Vm};
use crate::arch::native::{cpuid, layout, regs};
use crate::boot::{self, LoadedKernel, Machine, NamedFile};
use crate::bus::Bus;
use crate::devices::acpi_power::{self, AcpiPower};
use crate::devices::event_port::{self, EventPort};
use crate::devices::i8042::{self, I8042};
use crate::devices::machine_event::MachineEvents;
use crate::devices::pvpanic::{self, PvPanic};
use crate::devices::serial::{self, Serial};
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY, REGISTERS_SIZE};
use crate::devices::virtio::{DeviceKind, VirtioDevice};
use crate::kvm::{self, KvmError};
use crate::memory;
use crate::privileges::Confinement;
use crate::seccomp::ThreadKind;
use crate::timing::{Phase, Timing};
use crate::vcpu::{self, Vcpu, VcpuThread};

/// Makes the machine. `serial_out` takes what the guest writes to its console.
pub fn build(
    config: &VmConfig,
    parts: Parts,
    serial_out: Box<dyn io::Write + Send>,
    confinement: &Confinement,
    timing: &mut Timing,
) -> Result<Vm, BuildError> {
    let Parts { kvm, kernel, initrd, cmdline, devices, handles } = parts;
    let memory = memory::allocate(config.memory)?;
    timing.mark(Phase::Memory);

    // Much of what KVM does here is waiting (for grace periods of the host's kernel): the kernel is loaded
    // meanwhile.
    let privileges = confinement.privileges();
    let (kvm, loaded) = std::thread::scope(|scope| {
        let memory = &memory;
        let kvm = scope.spawn(move || {
            // A worker of KVM's own, if it makes one, has what this thread has.
            privileges.shed(ThreadKind::Vcpu).map_err(BuildError::host("give up privileges"))?;
            make_kvm(&kvm?, memory, config.cpus)
        });
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
    let (mmio, virtio) = connect_virtio(&fd, devices, &memory, confinement)?;
    let vcpu_ended = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::host("make an event"))?;
    let vcpus = spawn_vcpus(vcpu_fds, &ports, &Arc::new(mmio), &vcpu_ended, confinement)?;
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
    confinement: &Confinement,
) -> Result<(Bus, Transports), BuildError> {
    let (mut bus, mut transports) = (Bus::default(), Vec::new());
    let addresses = (layout::VIRTIO_MMIO..).step_by(0x1000);
    for (device, (address, gsi)) in devices.into_iter().zip(addresses.zip(layout::VIRTIO_GSI..)) {
        let confine = confinement.confine(thread_kind(device.kind()));
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
    confinement: &Confinement,
) -> Result<Vec<VcpuThread>, BuildError> {
    vcpu::prepare_process().map_err(BuildError::host("install the signal handler of vCPU threads"))?;
    let spawn = |(index, fd)| {
        let ended = ended.try_clone()?;
        let vcpu = Vcpu { fd, index, ports: ports.clone(), mmio: mmio.clone() };
        VcpuThread::spawn(vcpu, ended, confinement.confine(ThreadKind::Vcpu))
    };
    (0..).zip(fds).map(spawn).collect::<io::Result<_>>().map_err(BuildError::host("start a vCPU's thread"))
}
