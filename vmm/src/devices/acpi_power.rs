//! The sleep registers of hardware-reduced ACPI (ACPI 6.5, section 4.8.3.7): how the guest powers off.
//!
//! ```text
//!  port +0  sleep control   bits 2 to 4 SLP_TYP, bit 5 SLP_EN (write-only)
//!  port +1  sleep status    bit 7 WAK_STS: never set, this machine does not sleep
//! ```
//!
//! The FADT names both ports; `\_S5` in the DSDT gives [`S5`] as the sleep type of power-off.

use super::machine_event::{MachineEvent, MachineEvents};
use crate::bus::BusDevice;

/// Port of the sleep control register.
pub const CONTROL_PORT: u16 = 0x600;
/// Port of the sleep status register.
pub const STATUS_PORT: u16 = 0x601;
/// Ports from [`CONTROL_PORT`].
pub const PORTS: u16 = 2;
/// The SLP_TYP that means power-off.
pub const S5: u8 = 5;

const CONTROL: u64 = 0;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The registers.
pub struct AcpiPower {
    events: MachineEvents,
}

impl AcpiPower {
    /// Registers that report [`MachineEvent::PowerOff`] to `events`.
    pub fn new(events: MachineEvents) -> Self {
        Self { events }
    }
}

impl BusDevice for AcpiPower {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (CONTROL, [value]) = (offset, data) else {
            return;
        };
        if value & (SLEEP_ENABLE | SLEEP_TYPE_MASK) == SLEEP_ENABLE | S5 << SLEEP_TYPE_SHIFT {
            self.events.report(MachineEvent::PowerOff);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn only_entering_s5_powers_off() {
        let events = MachineEvents::new().unwrap();
        let mut registers = AcpiPower::new(events.clone());
        let (s5, s3) = (5 << 2 | 1 << 5, 3 << 2 | 1 << 5);
        for (offset, data) in [(0, &[s3][..]), (0, &[5 << 2]), (0, &[0xff]), (1, &[s5]), (0, &[s5, 0])] {
            registers.write(offset, data);
            assert_eq!(events.record().power_off, None, "{data:x?} at {offset}");
        }
        registers.write(0, &[s5]);
        assert!(events.record().power_off.is_some());
    }

    #[test]
    fn the_machine_never_wakes_up() {
        let mut registers = AcpiPower::new(MachineEvents::new().unwrap());
        let mut status = [0xff];
        registers.read(1, &mut status);
        assert_eq!(status, [0]);
    }
}
