//! The event port: how the guest's first process tells where the boot stands and how its command ended.
//!
//! The words are those of [`rvm_config::guest_abi`]. Accesses are of 32 bits; others read as a port where
//! nothing is and are ignored when written. Words that are no event are ignored.

use rvm_config::guest_abi::{EVENT_PORT_MAGIC, GuestEvent};

use super::machine_event::{MachineEvent, MachineEvents};
use crate::bus::BusDevice;

/// Ports from [`rvm_config::guest_abi::EVENT_PORT`].
pub const PORTS: u16 = 4;

/// The port.
pub struct EventPort {
    events: MachineEvents,
}

impl EventPort {
    /// A port that reports [`MachineEvent::Guest`] to `events`.
    pub fn new(events: MachineEvents) -> Self {
        Self { events }
    }
}

impl BusDevice for EventPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        match data.len() {
            4 => data.copy_from_slice(&EVENT_PORT_MAGIC.to_le_bytes()),
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let word = <[u8; 4]>::try_from(data).ok().map(u32::from_le_bytes);
        if let Some(event) = word.and_then(GuestEvent::from_word) {
            self.events.report(MachineEvent::Guest(event));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use crate::devices::machine_event::EventRecord;

    #[test]
    fn the_guest_finds_the_port_by_its_magic() {
        let mut port = EventPort::new(MachineEvents::new().unwrap());
        let mut word = [0; 4];
        port.read(0, &mut word);
        assert_eq!(&word, b"rvm0");
        port.read(0, &mut word[..2]);
        assert_eq!(&word, b"\xff\xffm0");
    }

    #[test]
    fn events_are_reported() {
        let events = MachineEvents::new().unwrap();
        let mut port = EventPort::new(events.clone());
        for event in [GuestEvent::InitStarted, GuestEvent::Ready, GuestEvent::Exit(7)] {
            port.write(0, &event.to_word().to_le_bytes());
        }
        let record = events.record();
        assert!(record.init_started <= record.ready && record.init_started.is_some());
        assert_eq!(record.exit.map(|(code, _)| code), Some(7));
    }

    #[test]
    fn nonsense_is_ignored() {
        let events = MachineEvents::new().unwrap();
        let mut port = EventPort::new(events.clone());
        for data in [&[][..], &[1], &[1, 0, 0], &[1, 0, 0, 1], &[0xff; 4], &[1, 0, 0, 0, 0, 0, 0, 0]] {
            port.write(0, data);
        }
        assert_eq!(events.record(), EventRecord::default());
    }
}
