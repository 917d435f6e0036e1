//! KVM without rvm: whether this machine's is real, and a guest of a few instructions that proves KVM itself.
#![allow(unsafe_code, reason = "a memory slot is handed to KVM as a raw address")]

use std::error::Error as _;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap};

/// The port that the guest writes to.
pub const PORT: u16 = 0x10;

/// Where the guest's code and its one page of memory are.
const CODE: GuestAddress = GuestAddress(0x1000);

/// Why a tiny guest did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is missing or not permitted.
    #[error("cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// An operation on KVM.
    #[error("KVM refused to {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// The mapping of the guest's memory.
    #[error("cannot give the guest memory")]
    Map(#[source] vm_memory::mmap::FromRangesError),
    /// The copy of the code into it.
    #[error("cannot write the guest's code")]
    Code(#[source] GuestMemoryError),
    /// An exit that this guest cannot cause.
    #[error("the guest stopped with {0}")]
    Exit(String),
}

/// What a tiny guest does: `exits` times it spins and then writes `byte` to [`PORT`]; then it halts.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What it writes.
    pub byte: u8,
    /// How often it goes round an empty loop before it writes; 0 stands for 65536.
    pub spins: u16,
    /// How often it writes; 0 stands for 65536.
    pub exits: u16,
}

/// What a tiny guest did.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// The bytes it wrote to [`PORT`].
    pub bytes: Vec<u8>,
    /// From its first instruction to its `hlt`.
    pub time: Duration,
}

/// Runs a guest in real mode.
pub fn run_tiny_guest(program: Program) -> Result<Ran, Error> {
    let [spins_low, spins_high] = program.spins.to_le_bytes();
    let [exits_low, exits_high] = program.exits.to_le_bytes();
    #[rustfmt::skip]
    let code = [
        0xbb, exits_low, exits_high,        // mov bx, exits
        0xb9, spins_low, spins_high,        // mov cx, spins
        0xe2, 0xfe,                         // loop here
        0xb0, program.byte,                 // mov al, byte
        0xe6, PORT.to_le_bytes()[0],        // out PORT, al
        0x4b,                               // dec bx
        0x75, 0xf4,                         // jnz to the second line
        0xf4,                               // hlt
    ];
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(CODE, 0x1000)]).map_err(Error::Map)?;
    memory.write_slice(&code, CODE).map_err(Error::Code)?;
    let host = memory.get_host_address(CODE).map_err(Error::Code)?;

    let kvm = Kvm::new().map_err(Error::Open)?;
    let vm = kvm.create_vm().map_err(|e| Error::Kvm("create a VM", e))?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE.0,
        memory_size: 0x1000,
        userspace_addr: host as u64,
    };
    // SAFETY: the mapping belongs to `memory`, which outlives `vm` and the vCPU (they are dropped first).
    unsafe { vm.set_user_memory_region(slot) }.map_err(|e| Error::Kvm("take the memory", e))?;
    let mut vcpu = vm.create_vcpu(0).map_err(|e| Error::Kvm("create a vCPU", e))?;
    let mut sregs = vcpu.get_sregs().map_err(|e| Error::Kvm("read registers", e))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).map_err(|e| Error::Kvm("set registers", e))?;
    let mut regs = vcpu.get_regs().map_err(|e| Error::Kvm("read registers", e))?;
    regs.rip = CODE.0;
    regs.rflags = 2;
    vcpu.set_regs(&regs).map_err(|e| Error::Kvm("set registers", e))?;

    let start = Instant::now();
    let mut bytes = Vec::new();
    loop {
        match vcpu.run().map_err(|e| Error::Kvm("run the vCPU", e))? {
            VcpuExit::IoOut(PORT, &[byte]) => bytes.push(byte),
            VcpuExit::Hlt => return Ok(Ran { bytes, time: start.elapsed() }),
            other => return Err(Error::Exit(format!("{other:?}"))),
        }
    }
}

/// Whether this machine's KVM is real, which is for `rvm doctor` to say; if not, why.
pub fn real() -> Result<(), String> {
    match rvm::doctor::kvm::probe() {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}
