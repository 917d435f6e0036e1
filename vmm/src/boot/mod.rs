//! From files to a machine that is ready for its first instruction: kernel, initrd, command line, and the
//! boot parameters that tell the kernel where they are.

mod cmdline;
mod initrd;
mod kernel;
mod named_file;
mod notes;

use linux_loader::loader::bootparam::setup_header;
use rvm_config::MemorySize;
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

pub use cmdline::{CmdlineError, DEFAULT_CMDLINE, compose};
pub use initrd::InitrdError;
pub use kernel::{KernelError, LoadedKernel};
pub use named_file::{FileKind, NamedFile, OpenError};

use crate::arch::native::regs::Entry;
use crate::arch::native::zero_page::Placed;
use crate::arch::native::{acpi, layout, start_info, zero_page};

/// Tells the kernel what it finds where: boot parameters by the protocol of its entry, and the ACPI tables.
pub fn describe(
    memory: &GuestMemoryMmap,
    kernel: &LoadedKernel,
    machine: &Machine,
) -> Result<(), GuestMemoryError> {
    let Machine { size, initrd, cmdline_length, cpus, virtio_devices } = *machine;
    let placed = Placed { memory: size, initrd, cmdline_length };
    acpi::write(memory, cpus, virtio_devices)?;
    match kernel.entry {
        Entry::Linux64(_) => zero_page::write(memory, kernel.setup_header, placed),
        Entry::Pvh(_) => start_info::write(memory, placed),
    }
}

/// What the boot parameters say of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// All of its memory.
    pub size: MemorySize,
    /// Address and length of the initrd; length 0 for none.
    pub initrd: (u32, u32),
    /// Bytes of the command line.
    pub cmdline_length: u32,
    /// Processors.
    pub cpus: u8,
    /// Virtio devices, in the order of their registers.
    pub virtio_devices: u8,
}

/// Loads the kernel of `image` into `memory`.
pub fn load_kernel(memory: &GuestMemoryMmap, image: NamedFile) -> Result<LoadedKernel, KernelError> {
    kernel::load(memory, image)
}

/// Loads `image` so that it ends where low RAM ends, above the kernel; gives its address and length.
pub fn load_initrd(
    memory: &GuestMemoryMmap,
    image: NamedFile,
    kernel: &LoadedKernel,
    size: MemorySize,
) -> Result<(u32, u32), InitrdError> {
    initrd::load(memory, image, kernel.end, layout::low_ram_end(size))
}

/// Writes the command line; gives its length.
pub fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str) -> Result<u32, GuestMemoryError> {
    cmdline::write(memory, cmdline)
}

/// The setup header of a bzImage, to be handed back to the kernel.
pub type SetupHeader = setup_header;
