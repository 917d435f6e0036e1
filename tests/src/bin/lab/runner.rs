//! Runs tests, each in a process (and process group) of its own, with a bound on its time.
//!
//! The same code runs inside the lab and on a host whose own KVM is real. It knows libtest's command line and the
//! marker of [`rvm_tests::cannot_run`], and nothing about where the results go.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::protocol::{Outcome, Plan, Test};
use crate::systems::System;

/// The most that is kept of a test's output; of more, the beginning and the end.
const OUTPUT_LIMIT: u64 = 128 * 1024;

/// What [`run`] tells as it goes; the number is the test's place in the plan.
#[derive(Debug)]
pub struct Ended {
    pub test: usize,
    pub outcome: Outcome,
    pub time: Duration,
    pub output: String,
}

/// Numbers the tests of a plan, in order.
pub fn in_order(plan: &Plan) -> impl Fn() -> Option<usize> + Sync {
    let (next, count) = (AtomicUsize::new(0), plan.tests.len());
    move || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count)
}

/// Runs tests of the plan, some at a time, as long as `next` gives their numbers.
pub fn run(
    plan: &Plan,
    env: &[(String, String)],
    next: &(dyn Fn() -> Option<usize> + Sync),
    report: &(dyn Fn(Ended) + Sync),
) {
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.clamp(1, plan.tests.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let Some((number, test)) =
                        next().and_then(|number| Some((number, plan.tests.get(number)?)))
                    else {
                        return;
                    };
                    let start = Instant::now();
                    let (outcome, output) = run_one(test, env, Duration::from_secs(plan.timeout))
                        .unwrap_or_else(|error| {
                            (Outcome::Failed(format!("did not start: {error}")), String::new())
                        });
                    report(Ended { test: number, outcome, time: start.elapsed(), output });
                }
            });
        }
    });
}

fn run_one(test: &Test, env: &[(String, String)], timeout: Duration) -> io::Result<(Outcome, String)> {
    // A file and not a pipe: a process the test leaves behind cannot make us wait for its end.
    let mut output = tempfile::tempfile()?;
    let child = Command::new(&test.program)
        .args(["--exact", &test.name, "--nocapture"])
        .current_dir(&test.directory)
        .env("CARGO_MANIFEST_DIR", &test.directory)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()?;
    let ended = wait(child, timeout)?;
    let output = read_output(&mut output)?;
    Ok((judge(ended, &output), output))
}

/// Waits for a process and ends its group, at the latest when its time is over (then `None`).
pub fn wait(mut child: Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(child.wait()));
        let in_time = receiver.recv_timeout(timeout);
        // Whatever the test left in its group goes with it.
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        match in_time {
            Ok(status) => status.map(Some),
            Err(RecvTimeoutError::Timeout) => receiver.recv().map_err(io::Error::other)?.map(|_| None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the waiting thread is gone")),
        }
    })
}

/// What an exit status and the output of one libtest process mean.
fn judge(ended: Option<ExitStatus>, output: &str) -> Outcome {
    let Some(status) = ended else {
        return Outcome::TimedOut;
    };
    if let Some(signal) = status.signal() {
        return Outcome::Failed(format!("killed by signal {signal}"));
    }
    if !status.success() {
        return Outcome::Failed(match status.code() {
            Some(101) => "panicked".into(),
            Some(code) => format!("exit status {code}"),
            None => "no exit status".into(),
        });
    }
    // A test that calls exit(0) ends its process before libtest can say that it passed.
    if !output.contains("test result: ok. 1 passed") {
        return Outcome::Failed("ended without a result".into());
    }
    match output.lines().find_map(rvm_tests::reason_in) {
        Some(reason) => Outcome::CouldNotRun(reason.to_owned()),
        None => Outcome::Passed,
    }
}

fn read_output(file: &mut File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    if length <= OUTPUT_LIMIT {
        file.read_to_end(&mut bytes)?;
    } else {
        file.take(OUTPUT_LIMIT / 2).read_to_end(&mut bytes)?;
        let left_out = length - OUTPUT_LIMIT;
        bytes.extend(format!("\n[... {left_out} bytes left out ...]\n").into_bytes());
        file.seek(SeekFrom::Start(length - OUTPUT_LIMIT / 2))?;
        file.take(OUTPUT_LIMIT / 2).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The tests of a libtest program, each with whether it is marked `#[ignore]`.
pub fn list(suite: &str, program: &Path, directory: &Path) -> io::Result<Vec<(Test, bool)>> {
    let names = |extra: &[&str]| -> io::Result<Vec<String>> {
        let output = Command::new(program)
            .args(["--list", "--format", "terse"])
            .args(extra)
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("{} --list: {}", program.display(), output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let ignored = names(&["--ignored"])?;
    let test = |name: String| {
        let is_ignored = ignored.contains(&name);
        let test = Test {
            suite: suite.to_owned(),
            program: program.to_owned(),
            directory: directory.to_owned(),
            name,
            system: System::Testing,
        };
        (test, is_ignored)
    };
    Ok(names(&[])?.into_iter().map(test).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{Outcome, judge};

    const OK: &str = "running 1 test\ntest result: ok. 1 passed; 0 failed";

    fn exit(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_test_passes_only_when_libtest_says_so() {
        assert_eq!(judge(exit(0), OK), Outcome::Passed);
        let silent = judge(exit(0), "running 1 test\n");
        assert_eq!(silent, Outcome::Failed("ended without a result".into()));
    }

    #[test]
    fn the_marker_counts_only_in_a_test_that_did_not_fail() {
        let output = format!("{}no such thing\n{OK}", rvm_tests::CANNOT_RUN);
        assert_eq!(judge(exit(0), &output), Outcome::CouldNotRun("no such thing".into()));
        assert_eq!(judge(exit(101), &output), Outcome::Failed("panicked".into()));
    }

    #[test]
    fn time_and_signals_are_told_apart() {
        assert_eq!(judge(None, OK), Outcome::TimedOut);
        let killed = judge(Some(ExitStatus::from_raw(9)), OK);
        assert_eq!(killed, Outcome::Failed("killed by signal 9".into()));
    }
}
