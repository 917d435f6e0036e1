//! Programs under test: run to their end, or step by step with a conversation.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

/// What a program has not said by then it will not say.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Nor what has not come by then among other things.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// Waits until the process of this number has ended, which it may have already.
#[track_caller]
pub fn wait_for_end_of(pid: u32) {
    let number = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return,
        process => process.unwrap(),
    };
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert!(ended > 0, "process {pid} has not ended for {PATIENCE:?}");
}

/// Writes to a pipe or terminal until it takes no more.
pub fn fill(path: &str) {
    let mut file = File::options();
    file.write(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let mut file = file.open(path).unwrap();
    // A terminal may refuse much where it takes a little, and takes some more when it has handed on what it has.
    while file.write(b".").is_ok() {
        while file.write(&[b'.'; 4096]).is_ok() {}
        while file.write(b".").is_ok() {}
        pause();
    }
}

/// Between two looks at what nothing tells of, to which a lab's processor is left meanwhile.
pub fn pause() {
    thread::sleep(Duration::from_millis(50));
}

/// How a run went.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    /// Standard output, with lines ending as usual.
    pub out: String,
    /// Standard error.
    pub error: String,
}

/// Runs `command` to its end.
pub fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran { status: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
}

/// What a terminal would show, with lines ending as usual.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// A stream of what a process says, read as far as asked.
pub struct Stream {
    from: File,
    seen: Vec<u8>,
    /// What was waited for ends here.
    mark: usize,
}

impl Stream {
    pub fn new(from: impl Into<OwnedFd>) -> Self {
        Self { from: File::from(from.into()), seen: Vec::new(), mark: 0 }
    }

    fn nothing() -> Self {
        Self::new(File::open("/dev/null").unwrap())
    }

    pub fn file(&self) -> &File {
        &self.from
    }

    /// Reads until `text` has come since the last call; gives what came before it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let begin = Instant::now();
        let mut looked_at = self.mark;
        loop {
            let new = &self.seen[looked_at..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                let at = looked_at + at;
                let before = String::from_utf8_lossy(&self.seen[self.mark..at]).into_owned();
                self.mark = at + text.len();
                return before;
            }
            // What is there of it may be its beginning.
            looked_at = looked_at.max((self.seen.len() + 1).saturating_sub(text.len()));
            assert!(self.read_more(), "{text:?} never came; this did: {}", self.all());
            // Of who says other things without end, nothing would ever be read in vain.
            assert!(
                begin.elapsed() < LONG_PATIENCE,
                "{text:?} has not come for {LONG_PATIENCE:?}; this did: {}",
                self.first_and_last()
            );
        }
    }

    /// Reads what there is, at least a byte; false at the end.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert!(ready > 0, "nothing came for {PATIENCE:?}; this had come: {}", self.all());
        let mut bytes = [0; 4096];
        // A pty whose other end is closed gives EIO.
        let count = self.from.read(&mut bytes).unwrap_or(0);
        self.seen.extend(&bytes[..count]);
        count > 0
    }

    /// Everything to the end.
    #[track_caller]
    pub fn rest(mut self) -> String {
        while self.read_more() {}
        self.all()
    }

    fn all(&self) -> String {
        text(&self.seen)
    }

    /// The first and the last of what came since the last wait that ended.
    fn first_and_last(&self) -> String {
        const LONG: usize = 4 << 10;
        let new = &self.seen[self.mark..];
        match (new.get(..LONG), new.len().checked_sub(2 * LONG)) {
            (Some(first), Some(left_out)) => {
                format!("{} ... {left_out} bytes ... {}", text(first), text(&new[LONG + left_out..]))
            }
            _ => text(new),
        }
    }
}

/// A running program to talk with through pipes. It does not outlive the test.
pub struct Running {
    child: Child,
    pub out: Stream,
    pub error: Stream,
}

impl Running {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Stream::new(child.stdout.take().unwrap());
        let error = Stream::new(child.stderr.take().unwrap());
        Self { child, out, error }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// A file of its process in /proc.
    pub fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Its standard input, if that was made a pipe.
    pub fn input(&mut self) -> impl Write + use<> {
        self.child.stdin.take().unwrap()
    }

    /// Reads its standard error from now on, on a thread, which gives it at its end.
    pub fn read_errors(&mut self) -> JoinHandle<String> {
        let error = std::mem::replace(&mut self.error, Stream::nothing());
        thread::spawn(|| error.rest())
    }

    /// Fills its standard error, of which nobody reads anything for now.
    pub fn fill_error(&self) {
        fill(&self.proc("fd/2"));
    }

    /// Closes the reading end of its standard output.
    pub fn close_output(&mut self) {
        self.out = Stream::nothing();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        let error = self.read_errors();
        let out = std::mem::replace(&mut self.out, Stream::nothing()).rest();
        let status = self.child.wait().unwrap().code();
        Ran { status, out, error: error.join().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Resident memory of a process in KiB, but for a guest's memory: its largest mapping, which may stand there in pieces.
pub fn own_memory_of(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    // Addresses and resident KiB; neighbours as one.
    let mut mappings: Vec<(Range<u64>, u64)> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), mappings.last_mut()) {
            (Some("Rss:"), Some(size), Some((_, resident))) => *resident += size.parse::<u64>().unwrap(),
            (Some(addresses), Some("rw-p"), Some((last, _)))
                if addresses_of(addresses).is_some_and(|range| range.start == last.end) =>
            {
                last.end = addresses_of(addresses).unwrap().end;
            }
            (Some(addresses), ..) => mappings.extend(addresses_of(addresses).map(|range| (range, 0))),
            _ => {}
        }
    }
    let size = |range: &Range<u64>| range.end - range.start;
    let guest = mappings.iter().max_by_key(|(range, _)| size(range));
    let guest = guest.filter(|(range, _)| size(range) >= 32 << 20).map_or(0, |(_, resident)| *resident);
    mappings.iter().map(|(_, resident)| resident).sum::<u64>() - guest
}

/// The addresses that a mapping's first line starts with.
fn addresses_of(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}
