//! The phases of a boot: how long each took, as a table or as a Chrome trace.

use std::fmt;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A stretch of the boot, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the process's creation to `main`, as processor time: the loading of the program itself.
    ProcessStart,
    /// Command line, configuration, files opened.
    Open,
    /// The guest's memory mapped.
    Memory,
    /// Kernel and initrd in memory, boot parameters written.
    KernelLoad,
    /// VM, interrupt controllers and processors, as far as they took longer than the kernel load beside them.
    Kvm,
    /// Devices connected, threads started.
    Devices,
    /// The rest, up to the first instruction of the guest.
    FirstInstruction,
    /// From the first instruction to the first process.
    KernelToInit,
    /// From the first process's start to its being ready.
    InitToReady,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::ProcessStart => "process start",
            Self::Open => "configuration and files",
            Self::Memory => "memory",
            Self::Kvm => "KVM",
            Self::KernelLoad => "kernel load",
            Self::Devices => "devices",
            Self::FirstInstruction => "first instruction",
            Self::KernelToInit => "kernel entry to init",
            Self::InitToReady => "init to ready",
        }
    }
}

/// The phases so far. The clock is CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Timing {
    /// When the first phase began: `main`'s first instant, less what the process had used before.
    start: Instant,
    last: Instant,
    phases: Vec<(Phase, Duration)>,
}

impl Timing {
    /// Starts the clock; to be called first in `main`.
    pub fn start() -> Self {
        let now = Instant::now();
        let before = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default();
        let start = now.checked_sub(before).unwrap_or(now);
        Self { start, last: now, phases: vec![(Phase::ProcessStart, before)] }
    }

    /// Ends `phase` now.
    pub fn mark(&mut self, phase: Phase) {
        self.mark_at(phase, Instant::now());
    }

    /// Ends `phase` at `when`, which is not before the end of the phase before it.
    pub fn mark_at(&mut self, phase: Phase, when: Instant) {
        self.phases.push((phase, when.saturating_duration_since(self.last)));
        self.last = when.max(self.last);
    }

    /// From the process's creation to the end of the last phase.
    pub fn total(&self) -> Duration {
        self.last.saturating_duration_since(self.start)
    }

    /// The phases in the Trace Event Format that chrome://tracing and Perfetto read.
    pub fn chrome_trace(&self) -> ChromeTrace {
        let mut began = Duration::ZERO;
        let events = self.phases.iter().map(|(phase, duration)| {
            let event = TraceEvent {
                name: phase.name(),
                ph: "X",
                ts: micros(began),
                dur: micros(*duration),
                pid: std::process::id(),
                tid: 1,
            };
            began += *duration;
            event
        });
        ChromeTrace { trace_events: events.collect() }
    }
}

/// The table that `--timing` prints.
impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:>10} {:>10}", "phase", "ms", "at ms")?;
        let mut at = Duration::ZERO;
        for (phase, duration) in &self.phases {
            at += *duration;
            writeln!(f, "{:<24} {:>10.3} {:>10.3}", phase.name(), millis(*duration), millis(at))?;
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A trace file: the JSON object format of the Trace Event Format.
#[derive(Debug, Serialize)]
pub struct ChromeTrace {
    #[serde(rename = "traceEvents")]
    trace_events: Vec<TraceEvent>,
}

/// A complete event ("X"); times in microseconds.
#[derive(Debug, Serialize)]
struct TraceEvent {
    name: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_and_are_named_in_the_trace() {
        let mut timing = Timing::start();
        let end = timing.last + Duration::from_millis(7);
        timing.mark_at(Phase::Memory, end);
        timing.mark_at(Phase::Kvm, end);
        assert_eq!(timing.total(), end - timing.start);
        let trace = serde_json::to_value(timing.chrome_trace()).expect("it is written");
        assert_eq!(trace["traceEvents"][1]["name"], "memory");
        assert_eq!(trace["traceEvents"][1]["dur"], 7000.0);
        assert!(timing.to_string().contains("KVM"));
    }
}
