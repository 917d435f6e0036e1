//! The last words of a captured console: what a failed boot is explained by.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rvm_config::control::CONSOLE_TAIL;

/// The last [`CONSOLE_TAIL`] bytes that were written. Clones are the same tail.
#[derive(Clone, Default)]
pub struct Tail {
    /// Taken for one write or one look.
    bytes: Arc<Mutex<VecDeque<u8>>>,
}

impl Tail {
    /// The last words, with what is no UTF-8 replaced: a guest writes what it likes.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.lock().make_contiguous()).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Tail {
    /// Never fails, and takes everything: what was there first makes room.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut tail = self.lock();
        let new = bytes.get(bytes.len().saturating_sub(CONSOLE_TAIL)..).unwrap_or(bytes);
        let surplus = (tail.len() + new.len()).saturating_sub(CONSOLE_TAIL);
        tail.drain(..surplus);
        tail.extend(new);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_kept_and_no_more() {
        let mut tail = Tail::default();
        tail.write_all(b"boot\n").unwrap();
        assert_eq!(tail.text(), "boot\n");
        for size in [1, 100, CONSOLE_TAIL - 1, CONSOLE_TAIL, CONSOLE_TAIL + 1, 3 * CONSOLE_TAIL] {
            tail.write_all(&vec![b'x'; size]).unwrap();
            tail.write_all(b"end").unwrap();
            let text = tail.text();
            assert!(text.len() <= CONSOLE_TAIL && text.ends_with("end"), "{size}");
        }
        assert_eq!(tail.text(), "x".repeat(CONSOLE_TAIL - 3) + "end");
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut tail = Tail::default();
        tail.write_all(b"a\xff\xfeb").unwrap();
        assert_eq!(tail.text(), "a\u{fffd}\u{fffd}b");
    }
}
