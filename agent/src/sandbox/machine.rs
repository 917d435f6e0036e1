//! What the guest's machine is and uses, from /proc and /sys, and what it has been given since the boot.

use std::fs;
use std::path::{Path, PathBuf};

use rvm_agent_proto::{InterfaceMetrics, MetricsResponse};

use crate::refusal::Refusal;

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
const INTERFACES: &str = "/sys/class/net";

/// Nanoseconds in a tick of /proc/stat, whose rate (USER_HZ) is part of Linux's interface on x86 and arm64.
const TICK_NS: u64 = 10_000_000;
/// The unit of /proc/self/statm on x86-64.
const PAGE_BYTES: u64 = 4096;

/// Memory of the guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel has to give.
    pub total: u64,
    /// What a new program could have.
    pub available: u64,
}

fn read(path: impl AsRef<Path>) -> Result<String, Refusal> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(Refusal::kernel(|| format!("read {}", path.display())))
}

/// The kernel's release, as uname(2) tells it.
pub fn kernel() -> Result<String, Refusal> {
    Ok(read("/proc/sys/kernel/osrelease")?.trim_end().to_owned())
}

/// How many CPUs are online.
pub fn cpus() -> Result<u32, Refusal> {
    Ok(count(read(Path::new(CPUS).join("online"))?.trim_end()))
}

/// How many numbers a list like `0-3,5` has.
fn count(list: &str) -> u32 {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    ranges.sum()
}

/// The guest's memory.
pub fn memory() -> Result<Memory, Refusal> {
    let table = read("/proc/meminfo")?;
    Ok(Memory { total: kib(&table, "MemTotal:"), available: kib(&table, "MemAvailable:") })
}

/// The bytes in a row of /proc/meminfo; 0 where there is none.
fn kib(table: &str, row: &str) -> u64 {
    let words = table.lines().find_map(|line| line.strip_prefix(row));
    let number = words.and_then(|words| words.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

/// Brings every CPU and every block of memory online that is not.
pub fn bring_online() -> Result<(), Refusal> {
    switch_on(CPUS, "cpu", "online", "0", "1")?;
    switch_on(MEMORY, "memory", "state", "offline", "online")
}

/// Writes `on` where a file of the devices below a directory reads `off`.
fn switch_on(directory: &str, prefix: &str, file: &str, off: &str, on: &str) -> Result<(), Refusal> {
    for device in entries(directory) {
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix(prefix).unwrap_or_default();
        let switch = device.join(file);
        if number.parse::<u32>().is_err() || !fs::read_to_string(&switch).is_ok_and(|is| is.trim() == off) {
            continue;
        }
        fs::write(&switch, on).map_err(Refusal::kernel(|| format!("write {on} to {}", switch.display())))?;
    }
    Ok(())
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What the guest uses.
pub fn metrics() -> Result<MetricsResponse, Refusal> {
    let memory = memory()?;
    let statm = read("/proc/self/statm")?;
    let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(MetricsResponse {
        memory_total_bytes: memory.total,
        memory_available_bytes: memory.available,
        cpu_usage_ns: cpu_usage_ns(&read("/proc/stat")?),
        processes: processes(),
        agent_resident_bytes: resident.unwrap_or_default().saturating_mul(PAGE_BYTES),
        interfaces: entries(INTERFACES).iter().map(|path| interface(path)).collect(),
    })
}

/// The time that all CPUs did not idle, from the first line of /proc/stat (proc_stat(5)).
fn cpu_usage_ns(stat: &str) -> u64 {
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system (idle iowait) irq softirq steal; the guest's time behind them is in user and nice.
    let busy = ticks.take(8).enumerate().filter(|(column, _)| !matches!(column, 3 | 4));
    let busy = busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok());
    busy.fold(0, u64::saturating_add).saturating_mul(TICK_NS)
}

/// How many processes there are, those of the kernel among them.
fn processes() -> u32 {
    let names =
        entries("/proc").into_iter().filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    u32::try_from(names.count()).unwrap_or(u32::MAX)
}

fn interface(path: &Path) -> InterfaceMetrics {
    let counter = |name: &str| {
        let text = fs::read_to_string(path.join("statistics").join(name));
        text.ok().and_then(|text| text.trim_end().parse().ok()).unwrap_or_default()
    };
    InterfaceMetrics {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        received_bytes: counter("rx_bytes"),
        received_packets: counter("rx_packets"),
        sent_bytes: counter("tx_bytes"),
        sent_packets: counter("tx_packets"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{count, cpu_usage_ns, kib, metrics};

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, number) in [("0", 1), ("0-3", 4), ("0-1,4,6-7", 5), ("", 0), ("3-1", 0)] {
            assert_eq!(count(list), number, "{list:?}");
        }
    }

    #[test]
    fn rows_of_meminfo_are_in_bytes() {
        let table = "MemTotal:         123 kB\nMemFree: 7 kB\n";
        assert_eq!(
            (kib(table, "MemTotal:"), kib(table, "MemFree:"), kib(table, "Nope:")),
            (125_952, 7168, 0)
        );
    }

    #[test]
    fn idling_is_no_usage() {
        let stat = "cpu  1 2 3 1000 1000 4 5 6 7 8\ncpu0 9 9 9\n";
        assert_eq!(cpu_usage_ns(stat), 21 * 10_000_000);
    }

    #[test]
    fn this_machine_has_metrics() {
        let metrics = metrics().unwrap();
        assert!(metrics.memory_total_bytes > metrics.memory_available_bytes);
        assert!(metrics.agent_resident_bytes > 100_000 && metrics.processes > 0 && metrics.cpu_usage_ns > 0);
        assert!(metrics.interfaces.iter().any(|interface| interface.name == "lo"));
    }
}
