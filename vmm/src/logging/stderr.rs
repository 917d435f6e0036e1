//! Standard error, written to without waiting where that is asked for: what it does not take is left out, and counted.

use std::io::{self, ErrorKind, Write};

/// Most that is kept to be written later, in bytes.
const KEPT: usize = 64 << 10;

/// Standard error, and what it did not take.
pub struct Stderr {
    /// What answers `WouldBlock` rather than block; none where whoever writes may wait.
    pub unwaiting: Option<Box<dyn Write + Send>>,
    /// The end of a message that was taken in part, and answers behind it.
    rest: Vec<u8>,
    /// Messages that were left out since the last one.
    dropped: u64,
    /// The last words of a VMM waited for a reader in vain: the next ones do not.
    pub unread: bool,
}

impl Stderr {
    pub const fn new() -> Self {
        Self { unwaiting: None, rest: Vec::new(), dropped: 0, unread: false }
    }

    /// One more message is left out.
    pub fn drop_one(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Writes `text` after what is to come before it; false if nothing of it is taken now.
    pub fn write(&mut self, text: &str) -> bool {
        if !self.finish() {
            return false;
        }
        if self.dropped > 0 {
            let note = format!("rvm: {} messages dropped\n", self.dropped);
            if !self.begin(note.as_bytes()) {
                return false;
            }
            self.dropped = 0;
        }
        self.finish() && self.begin(text.as_bytes())
    }

    /// Writes `text` as far as it is taken now, and keeps the rest for [`Self::finish`].
    pub fn answer(&mut self, text: &str) {
        if self.write(text) {
            return;
        }
        if self.rest.len().saturating_add(text.len()) <= KEPT {
            self.rest.extend(text.bytes());
        } else {
            self.drop_one();
        }
    }

    /// Writes `message`, or its beginning: the rest comes before anything else. False if nothing is taken now.
    fn begin(&mut self, message: &[u8]) -> bool {
        match self.put(message) {
            0 => message.is_empty(),
            taken => {
                self.rest = message.get(taken..).unwrap_or_default().to_vec();
                true
            }
        }
    }

    /// Writes what is left of a message; whether all is written.
    pub fn finish(&mut self) -> bool {
        let rest = std::mem::take(&mut self.rest);
        self.rest = rest.get(self.put(&rest)..).unwrap_or_default().to_vec();
        self.rest.is_empty()
    }

    /// Writes `bytes`, as far as they are taken; gives how many were. A closed standard error takes everything: there is
    /// nowhere else to say so.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let Some(out) = &mut self.unwaiting else {
            io::stderr().write_all(bytes).ok();
            return bytes.len();
        };
        let mut taken = 0;
        while let Some(left) = bytes.get(taken..).filter(|left| !left.is_empty()) {
            match out.write(left) {
                Ok(count @ 1..) => taken = taken.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => return bytes.len(),
            }
        }
        taken
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;
    use crate::output_stream;

    const PAGE: i32 = 4096;

    /// What writes to a pipe of a page, and the pipe's other end, non-blocking.
    fn pipe() -> (Stderr, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(PAGE)).unwrap();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let unwaiting = output_stream::without_blocking(&write).unwrap();
        (Stderr { unwaiting: Some(unwaiting), ..Stderr::new() }, File::from(read))
    }

    /// What is in a pipe.
    fn read(pipe: &mut File) -> String {
        let mut bytes = [0; 1 << 16];
        let count = pipe.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_no_line_is_cut() {
        let (mut stderr, mut reader) = pipe();
        let line = format!("{}\n", "x".repeat(99));
        let written = (0..100).filter(|_| stderr.write(&line)).count();
        assert_eq!(read(&mut reader), line.repeat(written));
        stderr.dropped = 7;
        assert!(stderr.write(&line));
        assert_eq!(read(&mut reader), format!("rvm: 7 messages dropped\n{line}"));

        // More than a pipe takes: what was begun is ended first.
        let long = format!("{}\n", "y".repeat(6000));
        assert!(stderr.write(&long) && !stderr.write(&line));
        let first = read(&mut reader);
        assert!(stderr.write(&line));
        assert_eq!(first + &read(&mut reader), long + &line);
    }

    #[test]
    fn an_answer_is_kept_until_it_is_taken() {
        let (mut stderr, mut reader) = pipe();
        let line = format!("{}\n", "x".repeat(99));
        while stderr.write(&line) {}
        let before = read(&mut reader);
        while stderr.write(&line) {}
        let answers: Vec<_> = (0..3).map(|number| format!("{number}{}\n", "y".repeat(999))).collect();
        answers.iter().for_each(|answer| stderr.answer(answer));
        assert!(!stderr.finish());
        assert_eq!(read(&mut reader), before);
        assert!(stderr.finish());
        assert_eq!(read(&mut reader), answers.concat());

        // Not without end.
        let dropped = stderr.dropped;
        (0..KEPT / 500).for_each(|_| stderr.answer(&answers[0]));
        assert!(stderr.rest.len() <= KEPT && stderr.dropped > dropped);
    }

    #[test]
    fn a_closed_standard_error_takes_everything() {
        let (mut stderr, reader) = pipe();
        drop(reader);
        assert!(stderr.write("unheard\n") && stderr.rest.is_empty());
    }
}
