//! The guest's side of the event port (`rvm_config::guest_abi`).
//!
//! Under another VMM the port is not there; then nothing is told, and nothing else changes.

use rvm_config::guest_abi::{EVENT_PORT, EVENT_PORT_MAGIC, GuestEvent};

use crate::sys;

/// Bytes the event port spans.
const EVENT_PORT_LEN: u16 = 4;

/// Access to the event port, given back when dropped: the permission would be inherited by commands.
pub struct EventPort(());

impl EventPort {
    /// The event port, or `None` where the machine has none.
    pub fn open() -> Option<Self> {
        sys::set_port_access(EVENT_PORT, EVENT_PORT_LEN, true).ok()?;
        let port = Self(());
        (sys::port_read(EVENT_PORT) == EVENT_PORT_MAGIC).then_some(port)
    }

    /// Tells the host one event.
    pub fn tell(&self, event: GuestEvent) {
        sys::port_write(EVENT_PORT, event.to_word());
    }
}

impl Drop for EventPort {
    fn drop(&mut self) {
        // Taking back what was granted cannot fail; if it did, a command could tell the host events,
        // which the host believes from nobody anyway.
        let _ = sys::set_port_access(EVENT_PORT, EVENT_PORT_LEN, false);
    }
}
