//! Messages of the VMM, to standard error.
//!
//! A guest can cause some of them, as often as it likes: after a burst, lines are dropped and counted. `RVM_LOG`
//! sets the level: error, warn (the default), info, debug.

use std::error::Error;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

/// Lines that may be written at once.
const BURST: u32 = 50;
/// One more line may be written after each such time.
const INTERVAL: Duration = Duration::from_millis(200);

struct StderrLog(Mutex<Bucket>);

static LOG: StderrLog = StderrLog(Mutex::new(Bucket { tokens: BURST, since: None, dropped: 0 }));

/// A token bucket.
struct Bucket {
    tokens: u32,
    since: Option<Instant>,
    dropped: u64,
}

impl Bucket {
    /// Whether a line may be written now; if so, how many were dropped before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let earned = u32::try_from(elapsed.as_millis() / INTERVAL.as_millis()).unwrap_or(BURST);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.since = Some(now);
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Some(std::mem::take(&mut self.dropped))
            }
            None => {
                self.dropped += 1;
                None
            }
        }
    }
}

impl Log for StderrLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(dropped) = bucket.take(Instant::now()) else {
            return;
        };
        let mut stderr = std::io::stderr().lock();
        // A closed standard error takes no messages, and there is nowhere else to say so.
        if dropped > 0 {
            writeln!(stderr, "rvm: {dropped} messages dropped").ok();
        }
        let line = one_line(&record.args().to_string());
        writeln!(stderr, "rvm: {}: {line}", record.level().as_str().to_ascii_lowercase()).ok();
    }

    fn flush(&self) {}
}

/// Sends the messages of this process to standard error. A second call changes nothing.
pub fn start() {
    let level = std::env::var("RVM_LOG").ok().and_then(|level| level.parse().ok());
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}

/// A line of rvm's own to standard error; where that is closed, nowhere.
pub fn say(text: &str) {
    writeln!(std::io::stderr(), "rvm: {}", one_line(text)).ok();
}

/// [`say`], of a message that has more than one line: the first is rvm's own, the rest explains it.
pub fn say_all(text: &str) {
    let mut lines = text.lines();
    say(lines.next().unwrap_or_default());
    for line in lines {
        writeln!(std::io::stderr(), "{}", one_line(line)).ok();
    }
}

/// `text` with its control characters written out: a file's name may have a newline in it, or worse.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        line
    })
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_control_characters_stays_in_its_line() {
        assert_eq!(one_line("disk 'a\n\x1b[2J\u{9b}é'"), r"disk 'a\n\u{1b}[2J\u{9b}é'");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut bucket = Bucket { tokens: 2, since: None, dropped: 0 };
        let start = Instant::now();
        assert_eq!([0; 4].map(|_| bucket.take(start)), [Some(0), Some(0), None, None]);
        assert_eq!(bucket.take(start + INTERVAL), Some(2));
        assert_eq!(bucket.take(start + INTERVAL), None);
        assert_eq!(bucket.take(start + 1000 * INTERVAL), Some(1));
    }
}
