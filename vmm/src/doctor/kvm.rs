//! Is there a KVM, may we use it, and is there hardware under it?
//!
//! A KVM may be complete to the last ioctl and still run nothing at a usable speed: hosts without VMX or
//! SVM exist whose KVM emulates the guest's kernel mode, at some million instructions a second, and gives up
//! on a stock kernel. No capability tells, so [`probe`] runs a few instructions and takes the time.
#![allow(unsafe_code, reason = "the memory of the tiny guest is handed to KVM by address")]

use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::kvm::{self, KvmError};

/// Slower than this is no hardware. Emulation was seen at 4 million; the slowest real case, KVM nested in
/// an emulated machine, at 2,800 million.
const HARDWARE_INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;

/// What was learned from a KVM that works.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Guest instructions a second in a simple loop.
    pub instructions_per_second: u64,
    /// How long KVM_CREATE_VM took.
    pub create_vm: Duration,
}

/// Why KVM is of no use here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, not permitted, or lacks something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM refused to make or run the tiny guest.
    #[error("KVM cannot {step} a guest of a few instructions")]
    Refused {
        /// What was attempted.
        step: &'static str,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// KVM ran the tiny guest and stopped where there is no reason to.
    #[error("a guest of a few instructions stopped with {0}")]
    Stopped(String),
    /// It runs, but not on hardware.
    #[error(
        "KVM without hardware: this host emulates the guest's kernel mode ({} instructions a second)",
        .instructions_per_second
    )]
    Emulated {
        /// Guest instructions a second.
        instructions_per_second: u64,
    },
}

/// Whether the processor offers VMX or SVM to this system.
pub fn cpu_has_virtualization() -> bool {
    use std::arch::x86_64::__cpuid;
    const VMX: u32 = 1 << 5; // leaf 1, ECX
    const SVM: u32 = 1 << 2; // leaf 8000_0001, ECX
    __cpuid(1).ecx & VMX != 0 || __cpuid(0x8000_0001).ecx & SVM != 0
}

/// Looks at KVM from the device node to the speed of a guest. Takes some tens of milliseconds at most.
pub fn probe() -> Result<Probe, Error> {
    let kvm = kvm::open()?;
    let start = Instant::now();
    let vm = kvm.create_vm().map_err(refused("create"))?;
    let create_vm = start.elapsed();
    judge_speed(TinyGuest::new(vm)?.speed()?, create_vm)
}

fn judge_speed(instructions_per_second: u64, create_vm: Duration) -> Result<Probe, Error> {
    if instructions_per_second < HARDWARE_INSTRUCTIONS_PER_SECOND {
        return Err(Error::Emulated { instructions_per_second });
    }
    Ok(Probe { instructions_per_second, create_vm })
}

fn refused(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |source| Error::Refused { step, source }
}

/// A virtual machine with one page, in real mode, counting ECX down.
struct TinyGuest {
    vcpu: VcpuFd,
    // KVM holds the page's address as long as the VM lives: the fields drop in this order.
    _vm: VmFd,
    _page: GuestMemoryMmap,
}

impl TinyGuest {
    /// Guest-physical address of the code; not zero, where emulators have special cases.
    const CODE_ADDRESS: GuestAddress = GuestAddress(0x1000);
    /// `again: mov eax, ecx; add eax, ecx; xor eax, ecx; dec ecx; jnz again; hlt`, in 16-bit code. Registers
    /// only: memory is what makes a processor that is itself emulated slow.
    const CODE: [u8; 14] =
        [0x66, 0x89, 0xc8, 0x66, 0x01, 0xc8, 0x66, 0x31, 0xc8, 0x66, 0x49, 0x75, 0xf3, 0xf4];
    /// Instructions a round of the loop.
    const PER_ROUND: u64 = 5;
    const PAGE_SIZE: usize = 0x1000;

    fn new(vm: VmFd) -> Result<Self, Error> {
        let no_memory =
            Error::Refused { step: "get memory for", source: kvm_ioctls::Error::new(nix::libc::ENOMEM) };
        let Some((page, host_address)) = Self::page() else { return Err(no_memory) };
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: Self::CODE_ADDRESS.0,
            memory_size: Self::PAGE_SIZE as u64,
            userspace_addr: host_address as u64,
        };
        // SAFETY: the mapping is of that size, and outlives the VM (see the fields).
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("give memory to"))?;

        let vcpu = vm.create_vcpu(0).map_err(refused("make a vCPU for"))?;
        let mut sregs = vcpu.get_sregs().map_err(refused("read the segments of"))?;
        // From the reset vector in high memory down to address 0, in a form that even processors that
        // run real mode as virtual-8086 mode accept.
        sregs.cs = kvm_segment { base: 0, selector: 0, ..sregs.cs };
        vcpu.set_sregs(&sregs).map_err(refused("set the segments of"))?;
        Ok(Self { vcpu, _vm: vm, _page: page })
    }

    /// The page with the code in it, and where it is in this process.
    fn page() -> Option<(GuestMemoryMmap, *mut u8)> {
        let page = GuestMemoryMmap::from_ranges(&[(Self::CODE_ADDRESS, Self::PAGE_SIZE)]).ok()?;
        page.write_slice(&Self::CODE, Self::CODE_ADDRESS).ok()?;
        let host_address = page.get_host_address(Self::CODE_ADDRESS).ok()?;
        Some((page, host_address))
    }

    /// Instructions a second. Asks for ten times more until the run takes long enough for entry and exit
    /// not to count, which take up to a millisecond where KVM is nested in emulation; so even a guest that
    /// is emulated is bounded, by ten times that.
    fn speed(&mut self) -> Result<u64, Error> {
        const LONG_ENOUGH: Duration = Duration::from_millis(10);
        const MOST_ROUNDS: u32 = 10_000_000;
        // The first run pays for the page.
        self.run(1)?;
        let mut rounds: u32 = 100;
        loop {
            let took = self.run(rounds)?;
            if took >= LONG_ENOUGH || rounds >= MOST_ROUNDS {
                return Ok(per_second(u64::from(rounds) * Self::PER_ROUND, took));
            }
            rounds *= 10;
        }
    }

    /// Runs the loop so many times and tells how long it took.
    fn run(&mut self, rounds: u32) -> Result<Duration, Error> {
        let regs = kvm_regs {
            rip: Self::CODE_ADDRESS.0,
            rcx: rounds.into(),
            rflags: 2, // the bit that is always set
            ..kvm_regs::default()
        };
        self.vcpu.set_regs(&regs).map_err(refused("set the registers of"))?;
        let start = Instant::now();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => return Ok(start.elapsed()),
                Ok(VcpuExit::Intr) => {}
                Ok(exit) => return Err(Error::Stopped(format!("{exit:?}"))),
                Err(err) if err.errno() == nix::libc::EINTR => {}
                Err(err) => return Err(refused("run")(err)),
            }
        }
    }
}

/// A rate, of whatever took that time.
fn per_second(count: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Error, judge_speed, per_second, probe};
    use std::time::Duration;

    #[test]
    fn some_million_a_second_are_emulation_and_a_hundred_million_are_hardware() {
        let judge = |speed| judge_speed(speed, Duration::ZERO);
        assert!(matches!(judge(5_000_000), Err(Error::Emulated { .. })));
        assert!(matches!(judge(49_999_999), Err(Error::Emulated { .. })));
        assert!(judge(50_000_000).is_ok());
        assert!(judge(100_000_000).is_ok());
    }

    #[test]
    fn a_rate_neither_divides_by_zero_nor_overflows() {
        assert_eq!(per_second(200, Duration::from_micros(100)), 2_000_000);
        assert_eq!(per_second(20, Duration::ZERO), 20_000_000_000);
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), u64::MAX);
    }

    #[test]
    fn the_probe_comes_to_a_result_on_any_machine() {
        // Which one is the machine's affair; that the tiny guest never stops for no reason is ours.
        let result = probe();
        assert!(!matches!(result, Err(Error::Stopped(_) | Error::Refused { .. })), "{result:?}");
    }
}
