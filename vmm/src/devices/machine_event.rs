//! What happens to the machine as a whole: the guest asks for a reset, is ready, ends.
//!
//! Devices report from vCPU threads; the main thread is woken and looks at the record. A guest can repeat an
//! event as often as it likes: the record has one place for each kind, so nothing grows and the main thread
//! is woken only by news. Not a queue; which of the events ends the machine is the main thread's decision.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rvm_config::guest_abi::GuestEvent;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// One event of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset of the machine.
    Reset,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest's kernel panicked.
    Panic,
    /// What the guest's first process told.
    Guest(GuestEvent),
}

/// Which events have happened so far, and when (CLOCK_MONOTONIC). Of each kind the first counts; of
/// [`GuestEvent::Exit`] the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRecord {
    /// [`MachineEvent::Reset`]
    pub reset: Option<Instant>,
    /// [`MachineEvent::PowerOff`]
    pub power_off: Option<Instant>,
    /// [`MachineEvent::Panic`]
    pub panic: Option<Instant>,
    /// [`GuestEvent::InitStarted`]
    pub init_started: Option<Instant>,
    /// [`GuestEvent::Ready`]
    pub ready: Option<Instant>,
    /// [`GuestEvent::Exit`]: the exit code of the guest's command.
    pub exit: Option<(u8, Instant)>,
}

impl EventRecord {
    /// Enters `event`; answers whether the record says something new.
    fn enter(&mut self, event: MachineEvent, now: Instant) -> bool {
        let first = match event {
            MachineEvent::Reset => &mut self.reset,
            MachineEvent::PowerOff => &mut self.power_off,
            MachineEvent::Panic => &mut self.panic,
            MachineEvent::Guest(GuestEvent::InitStarted) => &mut self.init_started,
            MachineEvent::Guest(GuestEvent::Ready) => &mut self.ready,
            MachineEvent::Guest(GuestEvent::Exit(code)) => {
                let news = self.exit.is_none_or(|(last, _)| last != code);
                self.exit = Some((code, now));
                return news;
            }
        };
        let news = first.is_none();
        first.get_or_insert(now);
        news
    }
}

/// The machine's record of events and the wake-up of its main thread. Clones are the same record.
#[derive(Clone)]
pub struct MachineEvents {
    shared: Arc<Shared>,
}

struct Shared {
    /// Taken for one entry or one look, never across a wait.
    record: Mutex<EventRecord>,
    wake: EventFd,
}

impl MachineEvents {
    /// An empty record. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { shared: Arc::new(Shared { record: Mutex::default(), wake }) })
    }

    /// Records that `event` happens now, and wakes the main thread if that is news.
    pub fn report(&self, event: MachineEvent) {
        let now = Instant::now();
        let news = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner).enter(event, now);
        if news {
            // A full counter is a wake-up already.
            self.shared.wake.write(1).ok();
        }
    }

    /// What has happened so far.
    pub fn record(&self) -> EventRecord {
        *self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when the record has news; the main thread reads it, then looks at [`Self::record`].
    pub fn wake(&self) -> &EventFd {
        &self.shared.wake
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_counts_and_wakes() {
        let events = MachineEvents::new().unwrap();
        events.report(MachineEvent::Reset);
        let first = events.record();
        assert!(first.reset.is_some());
        assert_eq!(events.wake().read().unwrap(), 1);
        events.report(MachineEvent::Reset);
        assert_eq!(events.record(), first);
        assert!(events.wake().read().is_err(), "a repeated event wakes nobody");
    }

    #[test]
    fn the_last_exit_code_counts() {
        let events = MachineEvents::new().unwrap();
        for code in [3, 3, 4] {
            events.report(MachineEvent::Guest(GuestEvent::Exit(code)));
        }
        assert_eq!(events.record().exit.map(|(code, _)| code), Some(4));
        assert_eq!(events.wake().read().unwrap(), 2);
    }

    #[test]
    fn each_kind_has_its_place() {
        let events = MachineEvents::new().unwrap();
        for event in [MachineEvent::PowerOff, MachineEvent::Panic] {
            events.report(event);
        }
        for event in [GuestEvent::InitStarted, GuestEvent::Ready] {
            events.report(MachineEvent::Guest(event));
        }
        let EventRecord { reset, power_off, panic, init_started, ready, exit } = events.record();
        assert!(reset.is_none() && exit.is_none());
        assert!(power_off.is_some() && panic.is_some() && init_started.is_some() && ready.is_some());
    }
}
