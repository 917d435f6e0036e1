//! From the start of the VMM's process to the ready line of init, the VMM's memory, the guest's at that line and
//! when it has idled, and what a boot exits for; each beside QEMU's microvm with the same kernel and the same image.
//! Then where the time goes, for a guest of one command and for one that containers run in.
//!
//! One vCPU, 128 MiB, seccomp on. A figure is the median of [`RUNS`] boots after one that is not counted; a lab
//! millisecond is a million executed instructions, host and guest together. The memory of an idle guest is that of
//! one more boot, of the image with a shell, whose first process sleeps.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rvm_tests::artifact;
use serde_json::json;

const RUNS: usize = 5;
const READY: &str = "rvm-agent ready";
/// What init runs after the ready line; the VMM is stopped before that matters.
const AND_THEN: &str = "-- /init";
/// What it runs to be idle.
const AND_SLEEP: &str = "-- sleep 1000000";
/// More than a guest needs to boot, and less than it waits before it reports free pages (2 s).
const BOOTED: Duration = Duration::from_secs(1);
/// The guest reports in rounds, 2 s apart: after this many there is nothing left to report, and the host's khugepaged
/// (10 s) has had its time as well.
const IDLE: Duration = Duration::from_secs(60);
/// The guest's memory.
const GUEST_KIB: u64 = 128 << 10;
const KVM_STATS: &str = "/sys/kernel/debug/kvm";
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What one boot cost.
#[derive(Clone, Debug)]
struct Boot {
    to_ready: Duration,
    exits: BTreeMap<String, u64>,
    memory: Memory,
}

/// Resident memory in KiB, by whose it is.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    guest: u64,
    own: u64,
}

/// A VMM on its way to the ready line, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a VMM whose guest has this image and runs what is on its kernel's command line.
type Make = fn(image: &Path, words: &str) -> Command;

fn rvm(image: &Path, words: &str) -> Command {
    let mut command = Command::new(artifact::rvm());
    command.args(["boot", "--kernel"]).arg(artifact::vmlinux()).arg("--initrd").arg(image);
    // As QEMU's guest has it below; one as small as this does not without being asked.
    command.args(["--cmdline", words, "--balloon", "0,reporting=on"]);
    command
}

fn qemu(image: &Path, words: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "microvm,acpi=on,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off", "-accel", "kvm"]);
    command.args(["-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-serial", "stdio", "-no-reboot", "-sandbox", "on", "-device", "virtio-rng-device"]);
    command.args(["-device", "virtio-balloon-device,free-page-reporting=on"]);
    command.arg("-kernel").arg(artifact::vmlinux()).arg("-initrd").arg(image);
    command.args(["-append", &format!("{} {words}", rvm::boot::DEFAULT_CMDLINE)]);
    command
}

fn boot(mut command: Command) -> Boot {
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = Running(child);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let ready = output.lines().map_while(Result::ok).find(|line| line.contains(READY));
    let to_ready = start.elapsed();
    assert!(ready.is_some(), "the guest becomes ready");
    // As it is now, so that nothing that comes after counts.
    kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGSTOP).unwrap();
    let memory = memory(child.0.id(), &guest_mapping(child.0.id()));
    Boot { to_ready, exits: exits(), memory }
}

/// The memory of a guest that has nothing to do, when all has been given back that will be.
fn idle(mut command: Command) -> Memory {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = Running(child);
    // The time of a deterministic lab passes at once when nobody has anything to do.
    sleep(BOOTED);
    let guest = guest_mapping(child.0.id());
    sleep(IDLE);
    assert_eq!(child.0.try_wait().unwrap(), None, "the guest goes on");
    memory(child.0.id(), &guest)
}

/// KVM's counters of the one VM there is.
fn exits() -> BTreeMap<String, u64> {
    let wanted = ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "insn_emulation", "pf_taken"];
    let vms: Vec<PathBuf> = fs::read_dir(KVM_STATS).unwrap().flatten().map(|entry| entry.path()).collect();
    let vm = vms.iter().find(|path| path.is_dir()).unwrap();
    let read = |name: &str| fs::read_to_string(vm.join(name)).unwrap().trim().parse().unwrap();
    wanted.iter().map(|name| ((*name).to_owned(), read(name))).collect()
}

/// Where the guest's memory is: mappings that follow each other, told apart by what the host is advised of each.
fn guest_mapping(pid: u32) -> Range<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = 0..0;
    for range in maps.lines().filter(|line| line.contains(" rw-p ")).filter_map(addresses) {
        found = if range.start == found.end { found.start..range.end } else { range };
        if found.end - found.start >= GUEST_KIB << 10 {
            return found;
        }
    }
    panic!("a VMM has its guest's memory:\n{maps}");
}

/// The addresses that a line of `maps` or `smaps` begins a mapping with.
fn addresses(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

fn memory(pid: u32, guest: &Range<u64>) -> Memory {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut memory, mut of_guest) = (Memory::default(), false);
    for line in maps.lines() {
        if let Some(range) = addresses(line) {
            of_guest = guest.contains(&range.start);
        } else if let Some(rss) = line.strip_prefix("Rss:") {
            let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
            if of_guest { memory.guest += rss } else { memory.own += rss }
        }
    }
    memory
}

/// The boot with the median time.
fn median(make: Make) -> Boot {
    let one = || boot(make(&artifact::bare_initramfs(), AND_THEN));
    one();
    let mut boots: Vec<Boot> = (0..RUNS).map(|_| one()).collect();
    boots.sort_by_key(|boot| boot.to_ready);
    boots.swap_remove(RUNS / 2)
}

fn print(huge_pages: &str, name: &str, boot: &Boot, idle: Memory) {
    let Boot { to_ready, exits, memory } = boot;
    println!(
        "{name:<14} {huge_pages:<8} {:>8.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>7} {:>6} {:>6} {:>6} {:>6} {:>9} {:>7}",
        to_ready.as_secs_f64() * 1e3,
        kib_to_mib(memory.own),
        kib_to_mib(memory.guest),
        kib_to_mib(idle.own),
        kib_to_mib(idle.guest),
        exits["exits"],
        exits["io_exits"],
        exits["mmio_exits"],
        exits["halt_exits"],
        exits["irq_exits"],
        exits["insn_emulation"],
        exits["pf_taken"],
    );
}

#[allow(clippy::cast_precision_loss, reason = "sizes of processes are far below 2^52")]
fn kib_to_mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn main() {
    if !Path::new(KVM_STATS).exists() {
        let mounted = Command::new("mount").args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"]).status();
        assert!(mounted.unwrap().success(), "KVM's counters are there");
    }
    let before = fs::read_to_string(HUGE_PAGES).unwrap();
    println!("1 vCPU, 128 MiB, process start to ready line; median of {RUNS}");
    println!("{:24}   at ready: MiB of VMM, guest; idle: of VMM, guest; exits", "");
    println!(
        "{:<14} {:<8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6} {:>6} {:>6} {:>6} {:>9} {:>7}",
        "VMM",
        "huge pg.",
        "lab ms",
        "VMM",
        "guest",
        "idle VMM",
        "idle",
        "exits",
        "port",
        "mmio",
        "halt",
        "irq",
        "emulated",
        "faults",
    );
    let mut figures = BTreeMap::new();
    for huge_pages in ["madvise", "never"] {
        fs::write(HUGE_PAGES, huge_pages).unwrap();
        for (name, make) in [("rvm", rvm as Make), ("QEMU microvm", qemu)] {
            let boot = median(make);
            let idle = idle(make(&artifact::initramfs(), AND_SLEEP));
            print(huge_pages, name, &boot, idle);
            let figure = json!({
                "lab_ms": boot.to_ready.as_secs_f64() * 1e3,
                "vmm_kib": boot.memory.own,
                "guest_kib": boot.memory.guest,
                "idle_guest_kib": idle.guest,
                "idle_vmm_kib": idle.own,
                "exits": boot.exits,
            });
            figures.insert(format!("{name}, huge pages {huge_pages}"), figure);
        }
    }
    if let Some(chosen) = before.split(['[', ']']).nth(1) {
        fs::write(HUGE_PAGES, chosen).unwrap();
    }
    println!("\na guest of one command:\n{}", phases(&artifact::bare_initramfs(), AND_THEN));
    println!("a guest of containers:\n{}", phases(&artifact::agent_initramfs(), ""));
    fs::write(artifact::out().join("boot.json"), json!(figures).to_string()).unwrap();
}

/// Where the time of one boot of this image goes, as rvm itself tells when it is asked to end.
fn phases(image: &Path, words: &str) -> String {
    let mut command = rvm(image, words);
    command.arg("--timing").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    sleep(BOOTED);
    kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let mut told = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    told
}
