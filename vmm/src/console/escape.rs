//! The console's escape key: Ctrl-a, then one key that is the VMM's and not the guest's.

/// Ctrl-a.
const ESCAPE: u8 = 0x01;

/// What `Ctrl-a h` prints. Lines end as a raw terminal needs it.
pub const HELP: &str = "\r\nrvm console, after Ctrl-a:\r\n  x       end the VM\r\n  p       pause the VM, or let it go \
                        on\r\n  s       print statistics\r\n  h       this help\r\n  Ctrl-a  send Ctrl-a to the guest\r\n";

/// What the user asked of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the VM.
    Quit,
    /// Print [`HELP`].
    Help,
    /// Pause, or go on.
    Pause,
    /// Print the counters.
    Stats,
}

/// Separates the escape sequences from what the guest gets, over any number of reads.
#[derive(Debug, Default)]
pub struct Escape {
    /// The last byte was the escape key.
    pending: bool,
}

impl Escape {
    /// The guest's bytes in `typed`, and the commands.
    pub fn split(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Command>) {
        let (mut bytes, mut commands) = (Vec::with_capacity(typed.len()), Vec::new());
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (false, byte) | (true, byte @ ESCAPE) => bytes.push(byte),
                (true, b'x') => commands.push(Command::Quit),
                (true, b'p') => commands.push(Command::Pause),
                (true, b's') => commands.push(Command::Stats),
                // Anything else was a slip: the help tells what there is.
                (true, _) => commands.push(Command::Help),
            }
        }
        (bytes, commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_bytes_are_the_guests() {
        assert_eq!(Escape::default().split(b"ls\r\x03"), (b"ls\r\x03".to_vec(), vec![]));
    }

    #[test]
    fn a_sequence_may_be_split_over_reads() {
        let mut escape = Escape::default();
        assert_eq!(escape.split(b"a\x01"), (b"a".to_vec(), vec![]));
        assert_eq!(escape.split(b"xb"), (b"b".to_vec(), vec![Command::Quit]));
    }

    #[test]
    fn the_escape_key_twice_is_sent_once() {
        assert_eq!(Escape::default().split(b"\x01\x01\x01p"), (b"\x01".to_vec(), vec![Command::Pause]));
    }

    #[test]
    fn a_key_without_meaning_brings_the_help() {
        assert_eq!(Escape::default().split(b"\x01q\x01h").1, [Command::Help, Command::Help]);
    }
}
