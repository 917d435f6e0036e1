//! The shim's log: the FIFO `log` in the bundle, which containerd reads into its own.
//!
//! Opened for reading as well, so that opening it waits for nobody and nothing is signalled when containerd is gone;
//! what does not fit while nobody reads is dropped. A line is one write of less than PIPE_BUF bytes: whole or not there.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Most bytes of a line's text, so that a line is written whole (PIPE_BUF is 4096).
const MAX_TEXT: usize = 3 << 10;

/// Where the shim says what nobody waits for. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Log {
    /// `None`: the bundle has no log.
    fifo: Option<Arc<File>>,
    pod: Arc<str>,
}

impl Log {
    /// The log in `bundle`, of the shim of `pod`.
    pub fn open(bundle: &Path, pod: &str) -> Self {
        let fifo =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("log"));
        Self { fifo: fifo.ok().map(Arc::new), pod: pod.into() }
    }

    /// Something went wrong that no call tells of.
    pub fn warn(&self, container: &str, text: &str) {
        let Some(fifo) = &self.fifo else { return };
        let text: String = text.chars().take(MAX_TEXT / 4).collect();
        let line =
            format!("level=warning msg={text:?} runtime=rvm sandbox={} container={container}\n", self.pod);
        // Whoever does not read the log does without.
        fifo.as_ref().write_all(line.as_bytes()).ok();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_keeps_whole_lines() {
        let bundle = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&bundle.path().join("log"), Mode::S_IRWXU).unwrap();
        let log = Log::open(bundle.path(), "pod");
        for _ in 0..1000 {
            log.warn("c1", &"x".repeat(500));
        }
        let mut reader = OpenOptions::new();
        let mut reader =
            reader.read(true).custom_flags(libc::O_NONBLOCK).open(bundle.path().join("log")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let length = reader.read(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(text.len() > 10_000 && text.ends_with("sandbox=pod container=c1\n"), "{}", text.len());
        let line = text.lines().next().unwrap();
        assert!(text.lines().all(|other| other == line), "{line}");
    }
}
