//! The processes of a container, from /proc (proc_pid_stat(5), proc_pid_status(5)).
//!
//! They come and go while they are looked at: one that is gone is left out.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rvm_agent_proto::Process;

/// Milliseconds and microseconds in a tick of /proc, whose rate (USER_HZ) is part of Linux's interface.
const TICK_MS: u64 = 10;
const TICK_US: u64 = 10_000;
/// The unit in which /proc gives resident memory on x86-64.
const PAGE_BYTES: u64 = 4096;
/// Major number of the terminals in devpts (UNIX98_PTY_SLAVE_MAJOR, which goes on to 143).
const PTS_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;
/// The most of a command line that is told.
const MAX_COMMAND: usize = 4096;

/// What there is of these processes. `named` has those that were run by a name.
pub fn all(pids: &[u32], named: &HashMap<u32, &str>) -> Vec<Process> {
    let mut processes: Vec<Process> = pids.iter().filter_map(|&pid| one(pid)).collect();
    let parents: HashMap<u32, u32> = processes.iter().map(|process| (process.pid, process.parent)).collect();
    for process in &mut processes {
        process.exec = run_by(process.pid, &parents, named).to_owned();
    }
    processes
}

/// The name of the process from which this one comes, or nothing.
fn run_by<'a>(pid: u32, parents: &HashMap<u32, u32>, named: &HashMap<u32, &'a str>) -> &'a str {
    let mut at = pid;
    // No chain is longer than there are processes; one that was read while they changed could have a loop.
    for _ in 0..=parents.len() {
        if let Some(name) = named.get(&at) {
            return name;
        }
        match parents.get(&at) {
            Some(&parent) => at = parent,
            None => break,
        }
    }
    ""
}

fn one(pid: u32) -> Option<Process> {
    let directory = format!("/proc/{pid}");
    let uid = fs::metadata(&directory).ok()?.uid();
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    let command = fs::read(format!("{directory}/cmdline")).ok()?;
    parse(pid, uid, &stat, &command)
}

fn parse(pid: u32, uid: u32, stat: &str, command: &[u8]) -> Option<Process> {
    // The name may have blanks and brackets in it; nothing behind it has.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The field that is number 3 in proc_pid_stat(5) comes first.
    let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        uid,
        started_ms: number(22)?.saturating_mul(TICK_MS),
        cpu_us: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_US),
        resident_bytes: number(24)?.saturating_mul(PAGE_BYTES),
        state: (*fields.first()?).to_owned(),
        terminal: terminal(number(7).unwrap_or_default()),
        command: words(command).unwrap_or_else(|| vec![name.to_owned()]),
        exec: String::new(),
    })
}

/// The name of a terminal by its device number: minor numbers in bits 0 to 7 and 20 up, the major in 8 to 19.
fn terminal(device: u64) -> String {
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xfff00;
    match PTS_MAJORS.contains(&major) {
        true => format!("pts/{}", (major - PTS_MAJORS.start()) * 256 + minor),
        false => String::new(),
    }
}

/// The words of a command line, each with a zero behind it.
fn words(command: &[u8]) -> Option<Vec<String>> {
    let command = command.get(..MAX_COMMAND).unwrap_or(command);
    let command = command.strip_suffix(b"\0").unwrap_or(command);
    let words = command.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    (!command.is_empty()).then(|| words.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{all, parse, terminal};
    use std::collections::HashMap;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) (b c) S 1 7 7 34816 7 4194304 99 0 0 0 12 3 0 0 20 0 1 0 4567 8000000 321 1844 0 0";
        let process = parse(7, 1000, stat, b"sh\0-c\0x y\0").unwrap();
        assert_eq!((process.parent, process.uid, process.state.as_str()), (1, 1000, "S"));
        assert_eq!(
            (process.started_ms, process.cpu_us, process.resident_bytes),
            (45_670, 150_000, 1_314_816)
        );
        assert_eq!(
            (process.terminal.as_str(), process.command),
            ("pts/0", vec!["sh".into(), "-c".into(), "x y".into()])
        );
        assert_eq!(parse(7, 0, stat, b"").unwrap().command, ["a) (b c"]);
        assert!(parse(7, 0, "7 (a) S 1", b"").is_none() && parse(7, 0, "", b"").is_none());
    }

    #[test]
    fn terminals_are_those_of_devpts() {
        for (device, name) in [(0, ""), (0x0501, ""), (136 << 8 | 3, "pts/3"), (137 << 8, "pts/256")] {
            assert_eq!(terminal(device), name, "{device:#x}");
        }
    }

    #[test]
    fn what_a_named_process_started_has_its_name() {
        let pid = std::process::id();
        let me = all(&[pid, u32::MAX], &HashMap::from([(pid, "shell")]));
        assert_eq!(me.len(), 1);
        assert_eq!((me[0].pid, me[0].exec.as_str()), (pid, "shell"));
        assert_eq!(
            super::run_by(3, &HashMap::from([(3, 2), (2, 1), (1, 0)]), &HashMap::from([(2, "b")])),
            "b"
        );
        assert_eq!(super::run_by(3, &HashMap::from([(3, 2), (2, 3)]), &HashMap::new()), "");
    }
}
