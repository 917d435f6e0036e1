//! The thread of a processor on a real KVM, with guests of a few instructions: also on hosts whose KVM emulates,
//! which `rvm boot` refuses.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use kvm_ioctls::VmFd;
use rvm::arch::native::regs::{self, Entry};
use rvm::arch::native::{cpuid, layout};
use rvm::bus::{Bus, BusDevice};
use rvm::vcpu::{self, Vcpu, VcpuEnd, VcpuThread};
use rvm::{kvm, memory};
use rvm_config::MemorySize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Where the guests tell something.
const TOLD: u16 = 0x10;
/// What the guests read here is the device's.
const ASKED: u16 = 0x30;
const ANSWER: u8 = 0x5a;

/// What is heard of a thread that confines itself.
const CONFINED: &[u8] = b"confined";

/// A device that passes on what it is told.
struct Ears(Sender<Vec<u8>>);

impl BusDevice for Ears {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(ANSWER);
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        // A test that has heard enough is no fault.
        self.0.send(data.to_vec()).ok();
    }
}

/// A processor that is held before the first instruction of its guest.
struct Held {
    vcpu: VcpuThread,
    ended: EventFd,
    heard: Receiver<Vec<u8>>,
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

/// A processor with `code` to run, in 64-bit mode; `None` where there is no KVM.
fn held(code: &[u8]) -> Option<Held> {
    let kvm = match kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("\nrvm-tests: cannot run: {error}");
            return None;
        }
    };
    let memory = memory::allocate(MemorySize::from_mib(64)).unwrap();
    memory.write_slice(code, GuestAddress(layout::HIGH_RAM)).unwrap();
    let vm = kvm::create_vm(&kvm, &memory).unwrap();
    let fd = vm.create_vcpu(0).unwrap();
    fd.set_cpuid2(&cpuid::for_cpu(&cpuid::supported(&kvm).unwrap(), 0, 1)).unwrap();
    regs::set_common(&fd).unwrap();
    regs::set_boot(&fd, &memory, Entry::Linux64(layout::HIGH_RAM)).unwrap();

    let (sender, heard) = channel();
    let ears = Arc::new(Mutex::new(Ears(sender.clone())));
    let mut ports = Bus::default();
    ports.attach(TOLD.into(), 1, ears.clone());
    ports.attach(ASKED.into(), 1, ears);
    vcpu::prepare_process().unwrap();
    let ended = EventFd::new(0).unwrap();
    let vcpu = Vcpu { fd, index: 0, ports: ports.into(), mmio: Bus::default().into() };
    let confine = move || sender.send(CONFINED.to_vec()).unwrap();
    let vcpu = VcpuThread::spawn(vcpu, ended.try_clone().unwrap(), confine).unwrap();
    vcpu.pause();
    // The thread confines itself before it looks whether it may run.
    assert_eq!(heard.try_recv().unwrap(), CONFINED);
    Some(Held { vcpu, ended, heard, _vm: vm, _memory: memory })
}

#[test]
fn accesses_to_ports_reach_their_devices() {
    #[rustfmt::skip]
    let code = [
        0xe4, 0x30,  // in al, ASKED
        0xe6, 0x10,  // out TOLD, al
        0xfe, 0xc0,  // inc al
        0xe6, 0x10,  // out TOLD, al
        0xeb, 0xfe,  // jmp here
    ];
    let Some(held) = held(&code) else { return };
    assert_eq!(held.vcpu.exits().port_reads.get(), 0, "it ran before it was told to");
    held.vcpu.resume();
    assert_eq!([held.heard.recv().unwrap(), held.heard.recv().unwrap()], [[ANSWER], [ANSWER + 1]]);
    assert!(matches!(held.vcpu.stop().1, VcpuEnd::Stopped));
}

#[test]
fn a_pause_holds_the_guest_and_none_is_lost() {
    #[rustfmt::skip]
    let code = [
        0xe6, 0x10,  // out TOLD, al
        0xeb, 0xfc,  // jmp to the first line
    ];
    let Some(held) = held(&code) else { return };
    for _ in 0..200 {
        held.vcpu.resume();
        held.heard.recv().unwrap();
        held.vcpu.pause();
        let before = held.vcpu.exits().port_writes.get();
        while held.heard.try_recv().is_ok() {}
        thread::yield_now();
        assert_eq!(held.vcpu.exits().port_writes.get(), before);
        assert!(held.heard.try_recv().is_err());
    }
    // From a pause as well.
    assert!(matches!(held.vcpu.stop().1, VcpuEnd::Stopped));
}

#[test]
fn a_guest_that_was_held_finds_that_in_its_clock() {
    #[rustfmt::skip]
    let code = [
        0xb9, 0x01, 0x4d, 0x56, 0x4b,              // mov ecx, MSR_KVM_SYSTEM_TIME_NEW
        0xb8, 0x01, 0x00, 0x20, 0x00,              // mov eax, 2 MiB: the clock's place; 1: on
        0x31, 0xd2,                                // xor edx, edx
        0x0f, 0x30,                                // wrmsr
        0x8a, 0x04, 0x25, 0x1d, 0x00, 0x20, 0x00,  // mov al, [its flags]
        0xe6, 0x10,                                // out TOLD, al
        0xeb, 0xf5,                                // jmp to the line before the last
    ];
    const GUEST_STOPPED: u8 = 1 << 1;
    let Some(held) = held(&code) else { return };
    let flags = || held.heard.recv().unwrap()[0] & GUEST_STOPPED;
    held.vcpu.resume();
    assert_eq!([flags(), flags()], [0, 0]);
    held.vcpu.pause();
    while held.heard.try_recv().is_ok() {}
    held.vcpu.resume();
    assert_eq!([flags(), flags()], [GUEST_STOPPED; 2]);
}

#[test]
fn a_guest_that_never_exits_is_paused_and_stopped() {
    let Some(held) = held(&[0xeb, 0xfe]) else { return }; // jmp here
    for _ in 0..20 {
        held.vcpu.resume();
        thread::yield_now();
        held.vcpu.pause();
    }
    held.vcpu.resume();
    assert!(matches!(held.vcpu.stop().1, VcpuEnd::Stopped));
}

#[test]
fn a_processor_that_was_never_let_run_ends() {
    let Some(held) = held(&[0xeb, 0xfe]) else { return };
    drop(held.vcpu);
    let Some(held) = self::held(&[0xf4]) else { return };
    assert!(matches!(held.vcpu.stop().1, VcpuEnd::Stopped));
}

#[test]
fn a_triple_fault_ends_the_thread_which_says_so() {
    #[rustfmt::skip]
    let code = [
        0x0f, 0x01, 0x1d, 2, 0, 0, 0,  // lidt [table]
        0x0f, 0x0b,                    // ud2, for which the table has no handler
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // table: empty, at 0
    ];
    let Some(mut held) = held(&code) else { return };
    held.vcpu.resume();
    held.ended.read().unwrap();
    let end = std::iter::repeat_with(|| held.vcpu.take_end()).find_map(|end| end).unwrap();
    assert!(matches!(end, VcpuEnd::TripleFault), "{end:?}");
    assert!(held.vcpu.take_end().is_none());
    // Nobody waits for what has ended.
    held.vcpu.pause();
    assert_eq!(held.vcpu.exits().port_writes.get(), 0);
}

#[test]
fn what_kvm_cannot_run_ends_the_thread_which_says_so() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0, 0, 0, 0x20,  // mov eax, 512 MiB: mapped, but no memory there
        0xff, 0xe0,           // jmp rax
    ];
    let Some(mut held) = held(&code) else { return };
    held.vcpu.resume();
    held.ended.read().unwrap();
    let end = std::iter::repeat_with(|| held.vcpu.take_end()).find_map(|end| end).unwrap();
    assert!(matches!(end, VcpuEnd::Failed(_)), "{end:?}");
}
