//! Messages of rvm, to standard error.
//!
//! A guest can cause some of a VMM's, as often as it likes: after a burst, lines are dropped and counted. `RVM_LOG`
//! sets the level: error, warn (the default), info, debug.
//!
//! A VMM waits for no reader of them ([`never_wait`]), as its threads must do what they are asked at any time: what
//! standard error does not take at once is dropped, and counted as well. What somebody asked for is kept until it is taken
//! ([`answer`]), and what is said at the end is worth a moment.

mod stderr;

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::output_stream;
use stderr::Stderr;

/// Lines that may be written at once.
const BURST: u32 = 50;
/// One more line may be written after each such time.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long the words of a VMM's end wait for somebody to read what stands before them.
const PATIENCE: Duration = Duration::from_secs(2);

/// Locked for one attempt to write, which in a VMM does not block.
static STDERR: Mutex<Stderr> = Mutex::new(Stderr::new());
/// Locked for one look.
static BUCKET: Mutex<Bucket> = Mutex::new(Bucket { tokens: BURST, since: None });

struct StderrLog;

/// A token bucket.
struct Bucket {
    tokens: u32,
    since: Option<Instant>,
}

impl Bucket {
    /// Whether a line may be written now.
    fn take(&mut self, now: Instant) -> bool {
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
                true
            }
            None => false,
        }
    }
}

fn lock() -> MutexGuard<'static, Stderr> {
    STDERR.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log for StderrLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = one_line(&record.args().to_string());
        let line = format!("rvm: {}: {line}\n", record.level().as_str().to_ascii_lowercase());
        if BUCKET.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            offer(&line);
        } else {
            lock().drop_one();
        }
    }

    fn flush(&self) {}
}

/// Sends the messages of this process to standard error. A second call changes nothing.
pub fn start() {
    let level = std::env::var("RVM_LOG").ok().and_then(|level| level.parse().ok());
    if log::set_logger(&StderrLog).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}

/// From now on nothing that is written to standard error waits for a reader, and what is [told](tell) only a moment. To be
/// called before the guest runs, while /proc is there.
pub fn never_wait() {
    // Fails where this process has no descriptor left: then it comes to no guest either.
    lock().unwaiting = output_stream::without_blocking(io::stderr()).ok();
}

/// Writes `text` to standard error; in a VMM only if it is taken at once.
pub fn offer(text: &str) {
    let mut stderr = lock();
    if !stderr.write(text) {
        stderr.drop_one();
    }
}

/// [`offer`], of what somebody asked for: what is not taken at once is kept for [`finish`].
pub fn answer(text: &str) {
    lock().answer(text);
}

/// Writes what was kept, as far as it is taken now; whether that is all.
pub fn finish() -> bool {
    lock().finish()
}

/// Writes `text` to standard error, all of it; a VMM, at its end, waits for a reader only so long.
pub fn tell(text: &str) {
    let start = Instant::now();
    let mut begun = false;
    loop {
        let mut stderr = lock();
        begun = begun || stderr.write(text);
        if begun && stderr.finish() {
            return;
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        stderr.unread |= left.is_zero();
        if stderr.unread {
            return;
        }
        drop(stderr);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let stderr = io::stderr();
        // Whatever comes of it, the next attempt tells.
        poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], timeout).ok();
    }
}

/// A line of rvm's own to standard error.
pub fn say(text: &str) {
    tell(&format!("rvm: {}\n", one_line(text)));
}

/// [`say`], of a message that has more than one line: the first is rvm's own, the rest explains it.
pub fn say_all(text: &str) {
    let mut lines = text.lines();
    say(lines.next().unwrap_or_default());
    for line in lines {
        tell(&format!("{}\n", one_line(line)));
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

/// An error and its causes in one line. The shim has one of its own: the VMM alone does without the crates that both have.
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
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::io::Write;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;
    use crate::seccomp::{Filters, ThreadKind};

    #[test]
    fn a_name_with_control_characters_stays_in_its_line() {
        assert_eq!(one_line("disk 'a\n\x1b[2J\u{9b}é'"), r"disk 'a\n\u{1b}[2J\u{9b}é'");
    }

    #[test]
    fn a_flood_is_cut() {
        let mut bucket = Bucket { tokens: 2, since: None };
        let start = Instant::now();
        assert_eq!([0; 4].map(|_| bucket.take(start)), [true, true, false, false]);
        assert_eq!([0; 2].map(|_| bucket.take(start + INTERVAL)), [true, false]);
        assert!(bucket.take(start + 1000 * INTERVAL));
    }

    #[test]
    fn a_vmm_whose_standard_error_nobody_reads_goes_on_and_ends() {
        const PAGE: i32 = 4096;
        const NAME: &str = "a_vmm_whose_standard_error_nobody_reads_goes_on_and_ends";
        // In a process of its own, as its standard error is.
        if std::env::var_os("RVM_TEST_UNREAD").is_some() {
            start();
            never_wait();
            let confine = Filters::new(true).unwrap().confine(ThreadKind::Rng);
            let thread = std::thread::spawn(|| {
                confine();
                for _ in 0..1000 {
                    log::warn!("a guest can cause this");
                    offer("and this\n");
                }
                say("its last words");
                std::process::exit(3);
            });
            return thread.join().unwrap();
        }
        let (reader, writer) = std::io::pipe().unwrap();
        let capacity = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PAGE)).unwrap();
        (&writer).write_all(&vec![b'x'; usize::try_from(capacity).unwrap()]).unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("logging::tests::{NAME}"), "--nocapture", "--test-threads=1"])
            .env("RVM_TEST_UNREAD", "1")
            .stdout(std::process::Stdio::null())
            .stderr(writer)
            .status()
            .unwrap();
        // It would have waited for ever.
        assert_eq!(status.code(), Some(3));
        drop(reader);
    }
}
