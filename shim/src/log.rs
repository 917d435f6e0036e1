//! The shim's log: the FIFO `log` in the bundle, which containerd reads into its own.
//!
//! Opened for reading as well, so that opening it waits for nobody and nothing is signalled when containerd is gone;
//! what does not fit while nobody reads is dropped. A line is one write of less than PIPE_BUF bytes: whole or not there.
//! A long text is several lines. Every line has the pod's name, and the container's where it is about one.

use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Most bytes of a line's text, so that a line is written whole (PIPE_BUF is 4096).
const MAX_TEXT: usize = 3 << 10;

/// Most lines of one text: what a guest says of itself is in some of them.
const MAX_LINES: usize = 8;

/// How much is said, and of a line: how much it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every call.
    Debug,
    /// What a container and its machine come to: a few lines each.
    #[default]
    Info,
    /// Something went wrong that no call tells of.
    Warning,
    /// The shim ends by it.
    Error,
}

impl Level {
    const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    /// Its name in containerd's log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Where the shim says what nobody waits for. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Log {
    /// `None`: the bundle has no log.
    fifo: Option<Arc<File>>,
    pod: Arc<str>,
    least: Level,
}

impl Log {
    /// The log in `bundle`, of the shim of `pod`, for lines of level `least` and above.
    pub fn open(bundle: &Path, pod: &str, least: Level) -> Self {
        let fifo =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("log"));
        Self { fifo: fifo.ok().map(Arc::new), pod: pod.into(), least }
    }

    /// What was asked for, or done, in detail.
    pub fn debug(&self, container: &str, text: impl Display) {
        self.say(Level::Debug, container, text);
    }

    /// What a container, or the pod, came to.
    pub fn info(&self, container: &str, text: impl Display) {
        self.say(Level::Info, container, text);
    }

    /// Something went wrong that no call tells of.
    pub fn warn(&self, container: &str, text: &str) {
        self.say(Level::Warning, container, text);
    }

    /// The shim ends by it.
    pub fn error(&self, text: impl Display) {
        self.say(Level::Error, "", text);
    }

    /// A text of this level about a container, or the pod, which has no name here.
    pub fn say(&self, level: Level, container: &str, text: impl Display) {
        let Some(fifo) = self.fifo.as_ref().filter(|_| level >= self.least) else { return };
        for line in lines(&text.to_string(), MAX_TEXT).into_iter().take(MAX_LINES) {
            let whose = Whose { pod: &self.pod, container };
            let line = format!("level={} msg=\"{line}\" runtime=rvm{whose}\n", level.name());
            // Whoever does not read the log does without.
            fifo.as_ref().write_all(line.as_bytes()).ok();
        }
    }
}

struct Whose<'a> {
    pod: &'a str,
    container: &'a str,
}

impl Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " sandbox={}", self.pod)?;
        if !self.container.is_empty() {
            write!(f, " container={}", self.container)?;
        }
        Ok(())
    }
}

/// A text as it stands between quotes, in lines of at most `most` bytes; what is not printed is escaped.
fn lines(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for character in text.chars() {
        let escaped = match character {
            '\'' => character.to_string(),
            _ => character.escape_debug().to_string(),
        };
        match lines.last_mut() {
            Some(line) if line.len() + escaped.len() <= most => line.push_str(&escaped),
            _ => lines.push(escaped),
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;
    use tempfile::TempDir;

    use super::*;

    fn log(least: Level) -> (TempDir, Log) {
        let bundle = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&bundle.path().join("log"), Mode::S_IRWXU).unwrap();
        let log = Log::open(bundle.path(), "pod", least);
        (bundle, log)
    }

    fn read(bundle: &TempDir) -> String {
        let mut reader = OpenOptions::new();
        let mut reader =
            reader.read(true).custom_flags(libc::O_NONBLOCK).open(bundle.path().join("log")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let length = reader.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_keeps_whole_lines() {
        let (bundle, log) = log(Level::Info);
        for _ in 0..1000 {
            log.warn("c1", &"x".repeat(500));
        }
        let text = read(&bundle);
        assert!(text.len() > 10_000 && text.ends_with("sandbox=pod container=c1\n"), "{}", text.len());
        let line = text.lines().next().unwrap();
        assert!(text.lines().all(|other| other == line), "{line}");
    }

    #[test]
    fn what_matters_less_than_is_asked_for_is_not_said() {
        for (least, said) in [(Level::Debug, 4), (Level::Info, 3), (Level::Warning, 2), (Level::Error, 1)] {
            let (bundle, log) = log(least);
            log.debug("c1", "called");
            log.info("c1", "came");
            log.warn("", "isn't \"right\"");
            log.error("ends");
            let expected = [
                "level=debug msg=\"called\" runtime=rvm sandbox=pod container=c1",
                "level=info msg=\"came\" runtime=rvm sandbox=pod container=c1",
                "level=warning msg=\"isn't \\\"right\\\"\" runtime=rvm sandbox=pod",
                "level=error msg=\"ends\" runtime=rvm sandbox=pod",
            ];
            assert_eq!(read(&bundle).lines().collect::<Vec<_>>(), expected[4 - said..]);
            assert_eq!(Level::named(least.name()), Some(least));
        }
    }

    #[test]
    fn of_a_long_text_nothing_is_lost_and_every_line_has_the_names() {
        // Four bytes each, and ten where they are escaped.
        let texts = ["x".repeat(7000), "\u{10ffff}".repeat(2000), format!("{}last words", "\n".repeat(8000))];
        for text in texts {
            let (bundle, log) = log(Level::Info);
            log.warn("c1", &text);
            let written = read(&bundle);
            let mut whole = String::new();
            for line in written.lines() {
                assert!(line.len() < libc::PIPE_BUF, "{}", line.len());
                let rest = line.strip_prefix("level=warning msg=\"").unwrap();
                whole += rest.strip_suffix("\" runtime=rvm sandbox=pod container=c1").unwrap();
            }
            assert_eq!(whole, text.escape_debug().to_string());
        }
    }

    #[test]
    fn a_guest_does_not_fill_the_log_with_one_text() {
        let (bundle, log) = log(Level::Info);
        log.warn("c1", &"x".repeat(1 << 20));
        assert_eq!(read(&bundle).lines().count(), MAX_LINES);
    }
}
