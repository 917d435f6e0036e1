//! The paravirtual panic device: one I/O port by which the guest's kernel tells that it panicked.
//!
//! Known to guests as ACPI device `QEMU0001`. A read gives the events the device understands, a write tells
//! that they happened; the bits are those of `include/uapi/misc/pvpanic.h` in Linux. Offered is "panicked"
//! alone: a guest that has a crash kernel goes on to run it, and does not tell.

use super::machine_event::{MachineEvent, MachineEvents};
use crate::bus::BusDevice;

/// The device's only port.
pub const PORT: u16 = 0x505;

/// PVPANIC_PANICKED: the kernel panicked and has nothing that handles it.
const PANICKED: u8 = 1 << 0;

/// The device.
pub struct PvPanic {
    events: MachineEvents,
}

impl PvPanic {
    /// A device that reports [`MachineEvent::Panic`] to `events`.
    pub fn new(events: MachineEvents) -> Self {
        Self { events }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [events] = data
            && events & PANICKED != 0
        {
            self.events.report(MachineEvent::Panic);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_and_other_events_are_not() {
        let events = MachineEvents::new().unwrap();
        let mut device = PvPanic::new(events.clone());
        let mut offered = [0];
        device.read(0, &mut offered);
        assert_eq!(offered, [1]);
        for data in [&[0][..], &[2], &[4], &[], &[1, 1]] {
            device.write(0, data);
            assert_eq!(events.record().panic, None);
        }
        device.write(0, &offered);
        assert!(events.record().panic.is_some());
    }
}
