//! The table of counters that `rvm boot --stats` and SIGUSR1 print, read again.

use rvm_config::control::DeviceStats;

/// The number in the line that begins with `name`.
#[track_caller]
pub fn counter(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name}: {table}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The line of the first device of this kind.
#[track_caller]
pub fn of_device(table: &str, device: &str) -> DeviceStats {
    let words = |line: &'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = table.lines().map(words).filter(|words| words.len() == 9 && words[1] == device);
    let line = lines.next().unwrap_or_else(|| panic!("no {device}: {table}"));
    let number = |column: usize| line[column].parse().unwrap();
    DeviceStats {
        device: device.to_owned(),
        operations: number(2),
        bytes_in: number(3),
        bytes_out: number(4),
        errors: number(5),
        kicks: number(6),
        wakeups: number(7),
        interrupts: number(8),
    }
}
