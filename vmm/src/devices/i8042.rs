//! The one thing left of the keyboard controller: its command to reset the machine.
//!
//! Five I/O ports from 0x60: data (0x60) and command and status (0x64). Linux resets by it with `reboot=k`,
//! and through the ACPI reset register, which names port 0x64 and value 0xfe. No keyboard, no mouse: the
//! status reads as "nothing to read, ready for a command", and all other commands are ignored.

use super::machine_event::{MachineEvent, MachineEvents};
use crate::bus::BusDevice;

/// First port of the controller.
pub const PORT: u16 = 0x60;
/// Ports from [`PORT`]. Those between data and command belong to other devices of a PC; here they read zero.
pub const PORTS: u16 = 5;
/// The port to which [`RESET`] is written, as told to the guest by the ACPI reset register.
pub const RESET_PORT: u16 = PORT + 4;
/// The command that resets the machine: pulse the processor's reset line.
pub const RESET: u8 = 0xfe;

const COMMAND: u64 = (RESET_PORT - PORT) as u64;

/// The controller.
pub struct I8042 {
    events: MachineEvents,
}

impl I8042 {
    /// A controller that reports [`MachineEvent::Reset`] to `events`.
    pub fn new(events: MachineEvents) -> Self {
        Self { events }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if (offset, data) == (COMMAND, &[RESET]) {
            self.events.report(MachineEvent::Reset);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let events = MachineEvents::new().unwrap();
        let mut controller = I8042::new(events.clone());
        for (offset, data) in [(4, &[0xfd][..]), (0, &[0xfe]), (4, &[0xfe, 0xfe]), (u64::MAX, &[0xfe])] {
            controller.write(offset, data);
            assert_eq!(events.record().reset, None);
        }
        controller.write(4, &[0xfe]);
        assert!(events.record().reset.is_some());
    }

    #[test]
    fn the_status_says_ready_for_a_command() {
        let mut controller = I8042::new(MachineEvents::new().unwrap());
        let mut status = [0xff];
        controller.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
