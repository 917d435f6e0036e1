//! A virtual processor and the thread it runs on.
//!
//! The thread does two things: it lets KVM run the guest, and it carries register accesses to the buses. To
//! pause or stop it, the main thread changes its [`Gate`] and kicks it out of the guest; the gate is looked at
//! only then, never on the way through an ordinary exit.
//!
//! ```text
//!           resume                 pause, kick
//!   held ───────────> running ──────────────────> held
//!     │ stop             │ stop, kick / triple fault / failure
//!     └──────────────────┴──────────────> ended: the thread gives the processor back
//! ```

#![allow(unsafe_code, reason = "a kick writes to the run structure that KVM shares with the vCPU's thread")]

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::libc;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::arch::native::clock;
use crate::bus::Bus;
use crate::devices::virtio::stats::Counter;

/// A processor of the machine.
pub struct Vcpu {
    /// KVM's end.
    pub fd: VcpuFd,
    /// Its number, from 0, which is its APIC id too.
    pub index: u8,
    /// Port space.
    pub ports: Arc<Bus>,
    /// Memory space without RAM.
    pub mmio: Arc<Bus>,
}

/// Exits from the guest to this process, by their kind.
#[derive(Debug, Default)]
pub struct ExitCounts {
    /// Reads of a port.
    pub port_reads: Counter,
    /// Writes to a port.
    pub port_writes: Counter,
    /// Reads of device memory.
    pub mmio_reads: Counter,
    /// Writes to device memory.
    pub mmio_writes: Counter,
    /// Kicks and other signals.
    pub interrupted: Counter,
    /// Everything else.
    pub other: Counter,
}

/// Why a processor does not run any more.
#[derive(Debug)]
pub enum VcpuEnd {
    /// The main thread stopped it.
    Stopped,
    /// The guest's exception handling failed: the processor shut down.
    TripleFault,
    /// KVM cannot go on with it.
    Failed(VcpuError),
}

/// Why KVM cannot go on with a processor.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM_RUN failed.
    #[error("KVM cannot run the processor")]
    Run(#[source] kvm_ioctls::Error),
    /// The hardware refused the processor's state.
    #[error("the hardware does not enter the guest (reason {0:#x})")]
    Entry(u64),
    /// KVM met what it cannot emulate.
    #[error(
        "KVM met an instruction or state that it cannot emulate; `rvm doctor` tells whether this host's KVM is complete"
    )]
    Internal,
    /// An exit that no machine here makes.
    #[error("KVM reported an exit of an unknown kind: {0}")]
    Unknown(String),
}

/// What the main thread wants of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Hold,
    Run,
    Stop,
}

/// Where the main thread and a processor's thread meet.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    wish: Wish,
    /// The thread waits at the gate, or has ended.
    held: bool,
}

/// What comes behind the gate.
enum Passage {
    Run {
        /// It had to wait.
        held: bool,
    },
    Stop,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the processor shall be held; gives what is to come then.
    fn pass(&self) -> Passage {
        let mut state = self.lock();
        let mut held = false;
        while state.wish == Wish::Hold {
            held = true;
            state.held = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held = false;
        if state.wish == Wish::Run { Passage::Run { held } } else { Passage::Stop }
    }

    fn set(&self, wish: Wish) {
        self.lock().wish = wish;
        self.changed.notify_all();
    }

    /// Waits until the thread is at the gate.
    fn wait_held(&self) {
        let mut state = self.lock();
        while !state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Called by the thread at its end: nobody shall wait for it.
    fn leave(&self) {
        self.lock().held = true;
        self.changed.notify_all();
    }
}

/// The byte in the structure shared with KVM that makes the next, or the current, KVM_RUN return at once.
#[derive(Clone, Copy)]
struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte is only accessed as an atomic, and lies in a mapping that lives as long as the processor's
// `VcpuFd`, which `VcpuThread` has or waits for before it is gone.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn of(fd: &mut VcpuFd) -> Self {
        Self((&raw const fd.get_kvm_run().immediate_exit).cast())
    }

    fn set(self, value: u8) {
        // SAFETY: see `Send` above: the byte is mapped, and every access to it here is atomic.
        let byte = unsafe { &*self.0 };
        byte.store(value, Ordering::SeqCst);
    }
}

/// A processor on its thread, seen from the main thread. Held until the first [`Self::resume`].
pub struct VcpuThread {
    thread: Option<JoinHandle<(Vcpu, VcpuEnd)>>,
    gate: Arc<Gate>,
    immediate_exit: ImmediateExit,
    exits: Arc<ExitCounts>,
}

/// The signal that takes a thread out of KVM_RUN. Its handler does nothing: being interrupted is all.
fn kick_signal() -> i32 {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler of the kick; to be called once before the first processor is spawned.
pub fn prepare_process() -> io::Result<()> {
    Ok(register_signal_handler(kick_signal(), on_kick)?)
}

impl VcpuThread {
    /// Starts the thread of `vcpu`. It first calls `confine`, then is held. `ended` becomes readable when it ends
    /// by itself.
    pub fn spawn(
        mut vcpu: Vcpu,
        ended: EventFd,
        confine: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let gate = Arc::new(Gate {
            state: Mutex::new(GateState { wish: Wish::Hold, held: false }),
            changed: Condvar::new(),
        });
        let immediate_exit = ImmediateExit::of(&mut vcpu.fd);
        let exits = Arc::new(ExitCounts::default());
        let (its_gate, its_exits) = (gate.clone(), exits.clone());
        let thread = Builder::new().name(format!("rvm-vcpu{}", vcpu.index)).spawn(move || {
            confine();
            let end = run(&mut vcpu, &its_gate, immediate_exit, &its_exits);
            its_gate.leave();
            if !matches!(end, VcpuEnd::Stopped) {
                // A full counter wakes the main thread as well.
                ended.write(1).ok();
            }
            (vcpu, end)
        })?;
        Ok(Self { thread: Some(thread), gate, immediate_exit, exits })
    }

    /// Its exits so far.
    pub fn exits(&self) -> &ExitCounts {
        &self.exits
    }

    /// Why the thread ended by itself; `None` while it runs, and once that was told.
    ///
    /// # Panics
    /// When the thread panicked.
    pub fn take_end(&mut self) -> Option<VcpuEnd> {
        let thread = self.thread.take_if(|thread| thread.is_finished())?;
        let (_, end) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some(end)
    }

    /// Lets the processor run.
    pub fn resume(&self) {
        self.gate.set(Wish::Run);
    }

    /// Takes the processor out of the guest and holds it; returns when it is held.
    pub fn pause(&self) {
        self.gate.set(Wish::Hold);
        self.kick();
        self.gate.wait_held();
    }

    /// Ends the thread; gives the processor and why it ended.
    ///
    /// # Panics
    /// When the thread panicked, or its end was taken before.
    pub fn stop(mut self) -> (Vcpu, VcpuEnd) {
        self.gate.set(Wish::Stop);
        self.kick();
        let thread = self.thread.take().expect("the processor has not ended by itself");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn kick(&self) {
        let Some(thread) = &self.thread else {
            return;
        };
        self.immediate_exit.set(1);
        // Fails only for a thread that is gone, which needs no kick.
        thread.kill(kick_signal()).ok();
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.gate.set(Wish::Stop);
        self.kick();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            thread.join().ok();
        }
    }
}

/// The thread: runs the guest until told otherwise.
fn run(vcpu: &mut Vcpu, gate: &Gate, immediate_exit: ImmediateExit, exits: &ExitCounts) -> VcpuEnd {
    // What is held before the first instruction does not know of time yet.
    if matches!(gate.pass(), Passage::Stop) {
        return VcpuEnd::Stopped;
    }
    loop {
        match vcpu.fd.run() {
            Ok(exit) => {
                if let Some(end) = handle(exit, &vcpu.ports, &vcpu.mmio, exits) {
                    return end;
                }
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                exits.interrupted.add(1);
                // Cleared before the gate is looked at: a kick that comes between makes the next run return.
                immediate_exit.set(0);
                match gate.pass() {
                    Passage::Stop => return VcpuEnd::Stopped,
                    Passage::Run { held: true } => clock::tell_of_pause(&vcpu.fd),
                    Passage::Run { held: false } => {}
                }
            }
            Err(error) => return VcpuEnd::Failed(VcpuError::Run(error)),
        }
    }
}

/// Carries out one exit; gives the end if there is no going on.
fn handle(exit: VcpuExit<'_>, ports: &Bus, mmio: &Bus, exits: &ExitCounts) -> Option<VcpuEnd> {
    match exit {
        VcpuExit::IoIn(port, data) => {
            exits.port_reads.add(1);
            ports.read(port.into(), data);
        }
        VcpuExit::IoOut(port, data) => {
            exits.port_writes.add(1);
            ports.write(port.into(), data);
        }
        VcpuExit::MmioRead(address, data) => {
            exits.mmio_reads.add(1);
            mmio.read(address, data);
        }
        VcpuExit::MmioWrite(address, data) => {
            exits.mmio_writes.add(1);
            mmio.write(address, data);
        }
        VcpuExit::Intr => exits.interrupted.add(1),
        VcpuExit::Hlt | VcpuExit::IrqWindowOpen => exits.other.add(1),
        VcpuExit::Shutdown => return Some(VcpuEnd::TripleFault),
        VcpuExit::FailEntry(reason, _) => return Some(VcpuEnd::Failed(VcpuError::Entry(reason))),
        VcpuExit::InternalError => return Some(VcpuEnd::Failed(VcpuError::Internal)),
        other => return Some(VcpuEnd::Failed(VcpuError::Unknown(format!("{other:?}")))),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(exit: VcpuExit<'_>) -> (Option<VcpuEnd>, ExitCounts) {
        let (bus, exits) = (Bus::default(), ExitCounts::default());
        (handle(exit, &bus, &bus, &exits), exits)
    }

    #[test]
    fn an_access_where_no_device_is_goes_on_and_reads_as_ones() {
        let mut data = [0; 4];
        let (end, exits) = handled(VcpuExit::IoIn(0x1234, &mut data));
        assert!(end.is_none());
        assert_eq!((data, exits.port_reads.get()), ([0xff; 4], 1));
        let (end, exits) = handled(VcpuExit::MmioWrite(u64::MAX, &[0; 8]));
        assert!(end.is_none());
        assert_eq!(exits.mmio_writes.get(), 1);
    }

    #[test]
    fn a_shutdown_is_a_triple_fault_and_the_unknown_is_a_failure() {
        assert!(matches!(handled(VcpuExit::Shutdown).0, Some(VcpuEnd::TripleFault)));
        assert!(matches!(handled(VcpuExit::InternalError).0, Some(VcpuEnd::Failed(VcpuError::Internal))));
        assert!(matches!(handled(VcpuExit::Nmi).0, Some(VcpuEnd::Failed(VcpuError::Unknown(_)))));
    }
}
