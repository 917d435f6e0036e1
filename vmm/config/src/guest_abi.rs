//! Numbers that the VMM and the agent in the guest agree on.
//!
//! The *event port* is one 32-bit I/O port by which the first process of the guest tells the host where
//! the boot stands and how its command ended. The guest writes one word an event:
//!
//! ```text
//!  31              16 15        8 7         0
//! +------------------+-----------+-----------+
//! |     reserved     |  payload  |   event   |
//! +------------------+-----------+-----------+
//! ```
//!
//! Reads answer [`EVENT_PORT_MAGIC`], so that a guest can tell whether the port is there. The host treats
//! each word as a hostile guest's: an unknown event is ignored, an event may come at any time, or twice.

/// First I/O port of the four bytes of the event port.
pub const EVENT_PORT: u16 = 0x06e0;

/// What a 32-bit read of the event port gives ("rvm0" in ASCII, little-endian).
pub const EVENT_PORT_MAGIC: u32 = u32::from_le_bytes(*b"rvm0");

/// What the guest's first process tells the host by the event port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// `/init` has begun to run: the kernel's part of the boot is over.
    InitStarted,
    /// The guest is ready for work: file systems are mounted, the command is about to run.
    Ready,
    /// The command ended with this exit code (128 + signal if a signal ended it); a power-off follows.
    Exit(u8),
}

impl GuestEvent {
    /// The word to write to the event port.
    pub const fn to_word(self) -> u32 {
        match self {
            Self::InitStarted => 1,
            Self::Ready => 2,
            Self::Exit(code) => 3 | (code as u32) << 8,
        }
    }

    /// The event a word stands for; `None` for a word that stands for none.
    pub const fn from_word(word: u32) -> Option<Self> {
        match word.to_le_bytes() {
            [1, 0, 0, 0] => Some(Self::InitStarted),
            [2, 0, 0, 0] => Some(Self::Ready),
            [3, code, 0, 0] => Some(Self::Exit(code)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GuestEvent;

    #[test]
    fn every_event_survives_the_port() {
        for event in [GuestEvent::InitStarted, GuestEvent::Ready, GuestEvent::Exit(0), GuestEvent::Exit(255)]
        {
            assert_eq!(GuestEvent::from_word(event.to_word()), Some(event));
        }
    }

    #[test]
    fn words_that_are_no_event_are_ignored() {
        for word in [0, 4, 0x101, 0x0001_0003, u32::MAX] {
            assert_eq!(GuestEvent::from_word(word), None, "{word:#x}");
        }
    }
}
