//! What rvm tells of a boot and of a running machine: timing, statistics, the configuration.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::run::{Running, boot, guest, run};
use super::stats::{counter, of_device};

/// The phases of a boot, in their order.
const PHASES: [&str; 9] = [
    "process start",
    "configuration and files",
    "memory",
    "kernel load",
    "KVM",
    "devices",
    "first instruction",
    "kernel entry to init",
    "init to ready",
];

#[test]
fn timing_is_a_table_of_the_phases() {
    let ran = guest(&["--timing"], "exit 3");
    assert_eq!(ran.status, Some(3));
    let mut lines = ran.error.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["phase", "ms", "at", "ms"]);
    let mut end = 0.0;
    for (line, phase) in lines.by_ref().zip(PHASES) {
        let numbers = line.strip_prefix(phase).unwrap_or_else(|| panic!("{phase}: {line}"));
        let numbers: Vec<f64> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [took, at] = numbers[..] else { panic!("{line}") };
        assert!((end + took - at).abs() < 0.01, "{line}");
        end = at;
    }
    assert_eq!(lines.next(), None);
    assert!(end > 0.0);
}

#[test]
fn timing_in_a_file_is_a_chrome_trace() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("trace.json");
    fs::write(&path, "old").unwrap();
    let ran = guest(&[&format!("--timing={}", path.display())], "true");
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""));
    let trace: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let names: Vec<_> = events.iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names, PHASES);
    let mut end = 0.0;
    for event in events {
        assert_eq!(event["ph"], "X");
        assert!(event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
        assert!((event["ts"].as_f64().unwrap() - end).abs() < 0.01, "{event}");
        end += event["dur"].as_f64().unwrap();
    }
}

#[test]
fn statistics_are_printed_at_the_end() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(16 << 20).unwrap();
    // What a disk is asked for is no more and no less than this, where the kernel has nothing to read ahead or write back.
    let script = "head -c 64 /dev/hwrng >/dev/null; \
                  dd if=/dev/vda of=/dev/null bs=4096 count=4 skip=8 iflag=direct 2>/dev/null; \
                  dd if=/dev/zero of=/dev/vda bs=4096 count=3 oflag=direct conv=notrunc,fsync 2>/dev/null; exit 3";
    let ran = guest(&["--stats", "--disk", disk.path().to_str().unwrap()], script);
    assert_eq!(ran.status, Some(3));
    assert!(counter(&ran.error, "port writes") > 100, "{ran:?}");
    assert!(counter(&ran.error, "mmio reads") > 10, "{ran:?}");
    let rng = of_device(&ran.error, "rng");
    assert!(rng.operations > 0 && rng.bytes_in >= 64, "{rng:?}");
    let block = of_device(&ran.error, "block");
    // The partition table is read as well.
    assert!((4 * 4096..1 << 20).contains(&block.bytes_in), "{block:?}");
    assert_eq!((block.bytes_out, block.errors), (3 * 4096, 0), "{block:?}");
    // Seven requests and a flush at least, each asked for by a kick and told by an interrupt, which may be one of several.
    assert!(block.operations >= 8 && block.kicks > 0 && block.interrupts > 0, "{block:?}");
}

#[test]
fn statistics_are_printed_of_a_guest_that_crashed() {
    let ran = run(boot(&["--stats", "--cmdline", "rdinit=/nonexistent"]));
    assert_eq!(ran.status, Some(91));
    assert!(counter(&ran.error, "port writes") > 100, "{ran:?}");
}

#[test]
fn statistics_are_printed_on_a_signal_and_the_guest_goes_on() {
    let mut command = boot(&["--", "sh", "-c", "read line; exit 3"]);
    command.stdin(std::process::Stdio::piped());
    let mut running = Running::ready(command);
    let mut input = running.input();
    for _ in 0..2 {
        running.signal(Signal::SIGUSR1);
        running.error.wait_for("port reads");
        running.error.wait_for("rng");
    }
    std::io::Write::write_all(&mut input, b"go\n").unwrap();
    assert_eq!(running.end().status, Some(3));
}

#[test]
fn the_printed_configuration_boots_the_same_machine() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("machine.json");
    let script = "nproc; exit 5";
    let printed = run(boot(&["--cpus", "2", "--no-balloon", "--print-config", "--", "sh", "-c", script]));
    assert_eq!(printed.status, Some(0));
    fs::write(&path, &printed.out).unwrap();
    let ran = run(boot(&["--config", path.to_str().unwrap()]));
    assert_eq!((ran.status, ran.said()), (Some(5), "2\n"));
}

#[test]
fn the_example_of_the_documentation_boots() {
    let page = include_str!("../../../docs/boot.md");
    let example = page.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    let directory = TempDir::new().unwrap();
    let (shared, path) = (directory.path().join("shared"), "/srv/data");
    fs::create_dir(&shared).unwrap();
    assert!(example.contains(path));
    let example = example.replace(path, shared.to_str().unwrap());
    fs::write(directory.path().join("machine.json"), example).unwrap();
    let disk = fs::File::create(directory.path().join("data.img")).unwrap();
    disk.set_len(16 << 20).unwrap();
    let script = "nproc; cd /sys/block/vda; echo $(cat serial) $(cat ro); ls /sys/bus/virtio/devices | wc -l";
    let mut command = boot(&["--config", "machine.json", "--", "sh", "-c", script]);
    command.current_dir(directory.path());
    let ran = run(command);
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""));
    assert_eq!(ran.said(), "2\ndata1 0\n5\n");
}
