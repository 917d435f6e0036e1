//! What benchmarks of containers have in common: commands that are run and timed, and the memory of processes.
//!
//! Times are lab milliseconds in a deterministic lab: millions of executed instructions, of the host and its guests.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::artifact;

/// What takes longer, in lab time, hangs. It passes at once while all wait for a disk of the lab, so it is long.
const PATIENCE: Duration = Duration::from_secs(100);

/// `rvm` with these arguments.
pub fn rvm(arguments: &[&str]) -> Command {
    with(Command::new(artifact::rvm()), arguments)
}

/// `ctr` with these arguments.
pub fn ctr(arguments: &[&str]) -> Command {
    with(Command::new("ctr"), arguments)
}

/// `docker` with these arguments.
pub fn docker(arguments: &[&str]) -> Command {
    with(Command::new("docker"), arguments)
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Lab milliseconds to the end of `command`; none if it had to be ended.
///
/// # Panics
/// When it cannot be started, or fails.
pub fn time(command: Command) -> Option<f64> {
    time_together(vec![command])
}

/// Lab milliseconds from the start of the first of `commands` to the end of the last; none if one had to be ended.
///
/// # Panics
/// When one cannot be started, or fails.
pub fn time_together(commands: Vec<Command>) -> Option<f64> {
    let start = Instant::now();
    let started: Vec<_> = commands.into_iter().map(|command| thread::spawn(move || run(command))).collect();
    let ended = started.into_iter().map(|thread| thread.join().expect("it was told why"));
    // All of them, whether or not one had to be ended.
    let in_order: Vec<bool> = ended.collect();
    let millis = start.elapsed().as_secs_f64() * 1e3;
    in_order.into_iter().all(|in_order| in_order).then_some(millis)
}

/// Runs `command` to its end, however long it takes: in a deterministic lab time passes at once while all wait for a disk.
///
/// # Panics
/// When it cannot be started, or fails.
pub fn finish(mut command: Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.expect("a benchmark's programs are there");
    assert!(status.success(), "{command:?}: {status}");
}

/// Runs `command` and swallows its output; whether it ended by itself.
fn run(mut command: Command) -> bool {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.expect("a benchmark's programs are there");
    let _watched = watch(&child);
    let output = child.stdout.take();
    output.map(|mut output| io::copy(&mut output, &mut io::sink()));
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success() || status.signal().is_some(), "{command:?}: {status}");
    status.success()
}

/// Kills `child` if nobody says in time that it has ended.
fn watch(child: &Child) -> Sender<()> {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process identifiers are small"));
    let (ended, over) = mpsc::channel();
    thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).ok();
        }
    });
    ended
}

/// The middle one of `runs` times, after one that is not counted.
pub fn median(runs: usize, command: impl Fn() -> Command) -> Option<f64> {
    time(command())?;
    let mut times = (0..runs).map(|_| time(command())).collect::<Option<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    times.get(runs / 2).copied()
}

/// What a process takes of the host's memory, in MiB.
pub struct Memory {
    /// Which of the wanted ones it is.
    pub process: &'static str,
    /// All that it has mapped.
    pub resident: f64,
    /// The same, but what processes share is divided among them (`Pss` in proc_pid_smaps(5)).
    pub proportional: f64,
}

/// What every process takes whose command line has one of `processes` in it.
///
/// # Panics
/// Without /proc.
pub fn memory_of(processes: &[&'static str]) -> Vec<Memory> {
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    // A process that ends meanwhile is none.
    entries.filter_map(|entry| memory(&entry.path(), processes)).collect()
}

fn memory(directory: &Path, processes: &[&'static str]) -> Option<Memory> {
    let words = fs::read_to_string(directory.join("cmdline")).ok()?.replace('\0', " ");
    let process = processes.iter().find(|process| words.contains(**process))?;
    let text = fs::read_to_string(directory.join("smaps_rollup")).ok()?;
    let mib = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    };
    Some(Memory { process, resident: mib("Rss:")?, proportional: mib("Pss:")? })
}
