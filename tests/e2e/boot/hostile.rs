//! A guest that does nothing but attack its devices, by registers, queues and ports, harms only itself: with KVM, ioeventfds,
//! irqfds, buses and filters all in place (the fuzz targets have each device alone).

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rvm_config::MemorySize;
use rvm_config::control::{Command, Outcome, Reason, Stats};
use rvm_tests::guest::Tap;
use tempfile::TempDir;

use super::control::Supervisor;
use super::image::{self, Elf};
use super::run::Running;
use crate::process::own_memory_of;

/// What the VMM may have for itself in KiB, its program included, however it is attacked.
const MOST_MEMORY: u64 = 32 << 10;
/// What it may grow by in KiB while it is attacked.
const MOST_GROWTH: u64 = 4 << 10;

/// Accesses to registers after which the attack has been everywhere.
const ENOUGH: u64 = 15_000;

/// The guest: `hostile.s`, which says what it does.
#[allow(unsafe_code, reason = "code in another language, taken as bytes")]
mod guest {
    std::arch::global_asm!(include_str!("hostile.s"));

    unsafe extern "C" {
        static rvm_hostile_guest: u8;
        static rvm_hostile_guest_end: u8;
    }

    pub fn code() -> Vec<u8> {
        let (start, end) = (&raw const rvm_hostile_guest, &raw const rvm_hostile_guest_end);
        // SAFETY: the two symbols are the start and the end of what the assembler made, constant data in one section.
        unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }.to_vec()
    }
}

/// Asserts that the VMM of `running` has no more memory than it may have; gives what it has.
#[track_caller]
fn memory_in_bounds(running: &Running, before: Option<u64>) -> u64 {
    let now = own_memory_of(running.pid().as_raw().unsigned_abs());
    assert!(now > 0 && now < MOST_MEMORY, "{now} KiB");
    assert!(before.is_none_or(|before| now < before + MOST_GROWTH), "from {before:?} to {now} KiB");
    now
}

/// Whether every device was asked for something, and those that a stranger's words can mean something to did it.
fn all_were_attacked(stats: &Stats) -> bool {
    let served = |device: &str| {
        stats
            .devices
            .iter()
            .any(|of| of.device == device && of.operations > 0 && of.bytes_in + of.bytes_out > 0)
    };
    stats.exits.mmio_writes > ENOUGH
        && stats.devices.iter().all(|device| device.kicks > 0)
        && ["block", "net", "balloon", "rng"].into_iter().all(served)
}

#[test]
fn a_guest_that_attacks_its_devices_harms_only_itself() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (kernel, disk, shared, socket) = (path("kernel"), path("disk"), path("shared"), path("vsock"));
    fs::write(&kernel, image::elf(&Elf { code: guest::code(), ..Elf::default() })).unwrap();
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    fs::create_dir(&shared).unwrap();
    let tap = Tap::new("rvm-hostile", "192.0.2.9/30").unwrap();
    let share = format!("{shared},tag=shared");
    let of_devices = [
        "--disk",
        &disk,
        "--share",
        &share,
        "--net",
        tap.name(),
        "--vsock",
        &socket,
        "--balloon",
        "0,reporting=on",
    ];
    let (mut supervisor, mut running) =
        Supervisor::boot(&[&["--kernel", &kernel, "--console", "captured"], &of_devices[..]].concat());
    let said = running.read_errors();

    while supervisor.stats().exits.mmio_writes < ENOUGH / 10 {
        thread::sleep(Duration::from_millis(50));
    }
    let before = memory_in_bounds(&running, None);
    loop {
        // It is held and goes on, wherever it is; and is asked for pages, and for its last words.
        assert_eq!(supervisor.ask(Command::Pause), Outcome::Done);
        let held = supervisor.stats();
        let Stats { exits, devices, .. } = supervisor.stats();
        assert_eq!((&exits, &devices), (&held.exits, &held.devices), "nothing happens in a VM that is held");
        assert_eq!(supervisor.ask(Command::Resume), Outcome::Done);
        let size = MemorySize::from_mib(u32::try_from(held.exits.mmio_writes % 64).unwrap());
        assert_eq!(supervisor.ask(Command::Balloon { size }), Outcome::Done);
        assert!(matches!(supervisor.ask(Command::ConsoleTail), Outcome::Console(_)));
        memory_in_bounds(&running, Some(before));
        if all_were_attacked(&held) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }

    running.signal(Signal::SIGTERM);
    let ended = supervisor.ended();
    assert_eq!((ended.reason, ended.status), (Reason::Signal, 143), "{ended:?}");
    assert_eq!(running.end().status, Some(143));
    let said = said.join().unwrap();
    assert!(said.lines().all(|line| line.starts_with("rvm: ")), "{said}");
    assert!(said.ends_with("rvm: ended by SIGTERM\n"), "{said}");
    // Of what was made for it, its socket is gone, and in the shared directory is nothing new.
    assert!(!fs::exists(&socket).unwrap());
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}
