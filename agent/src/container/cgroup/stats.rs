//! What a group uses, from its files. A file that is not there counts nothing: its controller is not in the kernel.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::Group;
use crate::container::Error;

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// cpu.stat
    pub cpu: CpuStats,
    /// memory.*
    pub memory: MemoryStats,
    /// pids.*
    pub pids: PidsStats,
    /// A line of io.stat each.
    pub io: Vec<IoStats>,
}

/// cpu.stat, times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct CpuStats {
    pub usage_us: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_us: u64,
}

/// memory.current, memory.max, memory.peak, memory.swap.current, memory.stat and memory.events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct MemoryStats {
    pub current_bytes: u64,
    /// `None`: there is none.
    pub limit_bytes: Option<u64>,
    pub peak_bytes: u64,
    pub swap_bytes: u64,
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub inactive_file_bytes: u64,
    pub kernel_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub oom_events: u64,
    pub oom_kills: u64,
}

/// pids.current and pids.max.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Processes and threads.
    pub current: u64,
    /// `None`: there is none.
    pub limit: Option<u64>,
}

/// A line of io.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the kernel names them")]
pub struct IoStats {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Group {
    /// What it uses.
    pub fn stats(&self) -> Result<Stats, Error> {
        let read = |file: &str| read(&self.path, file);
        let all = || {
            Ok::<_, io::Error>(Stats {
                cpu: cpu(&read("cpu.stat")?),
                memory: memory(&read)?,
                pids: PidsStats {
                    current: number(&read("pids.current")?).unwrap_or_default(),
                    limit: number(&read("pids.max")?),
                },
                io: read("io.stat")?.lines().filter_map(io).collect(),
            })
        };
        all().map_err(Error::at(format!("read what {} uses", self.path.display())))
    }

    /// How many of its processes the kernel ended because the memory limit was reached.
    pub fn out_of_memory_kills(&self) -> Result<u64, Error> {
        let events = read(&self.path, "memory.events");
        let events = events.map_err(Error::at(format!("read {}/memory.events", self.path.display())))?;
        Ok(field(&events, "oom_kill"))
    }
}

fn read(group: &Path, file: &str) -> io::Result<String> {
    match fs::read_to_string(group.join(file)) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

/// The word behind `key` in a file of lines `key value`.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

fn field(text: &str, key: &str) -> u64 {
    value(text, key).and_then(number).unwrap_or_default()
}

/// A file's number; `None`: it says "max".
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn cpu(stat: &str) -> CpuStats {
    CpuStats {
        usage_us: field(stat, "usage_usec"),
        user_us: field(stat, "user_usec"),
        system_us: field(stat, "system_usec"),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        throttled_us: field(stat, "throttled_usec"),
    }
}

fn memory(read: &impl Fn(&str) -> io::Result<String>) -> io::Result<MemoryStats> {
    let (stat, events) = (read("memory.stat")?, read("memory.events")?);
    let of = |file: &str| Ok::<_, io::Error>(number(&read(file)?));
    Ok(MemoryStats {
        current_bytes: of("memory.current")?.unwrap_or_default(),
        limit_bytes: of("memory.max")?,
        peak_bytes: of("memory.peak")?.unwrap_or_default(),
        swap_bytes: of("memory.swap.current")?.unwrap_or_default(),
        anon_bytes: field(&stat, "anon"),
        file_bytes: field(&stat, "file"),
        inactive_file_bytes: field(&stat, "inactive_file"),
        kernel_bytes: field(&stat, "kernel"),
        page_faults: field(&stat, "pgfault"),
        major_page_faults: field(&stat, "pgmajfault"),
        oom_events: field(&events, "oom"),
        oom_kills: field(&events, "oom_kill"),
    })
}

/// `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`; `None`: a device without figures.
fn io(line: &str) -> Option<IoStats> {
    let (device, figures) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let of = |key: &str| {
        let figure = |figure: &str| figure.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
        figures.split(' ').find_map(figure).unwrap_or_default()
    };
    Some(IoStats {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read_bytes: of("rbytes"),
        written_bytes: of("wbytes"),
        reads: of("rios"),
        writes: of("wios"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_io_stat_is_a_device() {
        let line = "254:16 rbytes=8192 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0";
        let expected =
            IoStats { major: 254, minor: 16, read_bytes: 8192, written_bytes: 4096, reads: 2, writes: 1 };
        assert_eq!(io(line), Some(expected));
        // A device that was never used, and one that is gone.
        assert_eq!(io("7:0 "), Some(IoStats { major: 7, ..IoStats::default() }));
        assert_eq!(io("(unknown) rbytes=1"), None);
    }

    #[test]
    fn a_key_is_no_prefix_of_another() {
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!([field(events, "oom"), field(events, "oom_kill"), field(events, "oo")], [2, 1, 0]);
    }
}
