//! Containers that take all they can get.

use super::place::{Place, image};
use crate::process::own_memory_of;

/// Resident memory of rvm's processes in KiB, but for the guests' memory.
fn own_memory(place: &Place) -> u64 {
    place.processes().into_iter().map(|(pid, _)| own_memory_of(pid)).sum()
}

#[test]
fn a_flood_that_nobody_reads_stops_at_its_source() {
    let place = Place::with(&["busybox"]);
    let mut running =
        place.start(&["run", "--rm", "--name", "flood", &image("busybox"), "yes", "0123456789abcdef"]);
    let line = "0123456789abcdef\n";
    running.out.wait_for(line);
    // From here on nobody reads. A flood that is held is as large the second time it is looked at.
    let sizes = || (own_memory(&place), place.said(&["stats", "--no-stream", "flood"]));
    let (mut before, _) = sizes();
    for _ in 0..3 {
        let (now, stats) = sizes();
        println!("{now} KiB\n{stats}");
        assert!(now < 64 << 10, "{now} KiB for supervisor, VMM and `run`");
        assert!(now < before + (1 << 10), "it grew from {before} to {now} KiB");
        before = now;
    }
    // What waits is not lost.
    for _ in 0..10_000 {
        running.out.wait_for(line);
    }
    place.said(&["rm", "-f", "flood"]);
}

#[test]
fn a_flood_into_the_log_ends_at_the_logs_size() {
    let place = Place::with(&["busybox"]);
    let flood = "yes $(seq -s, 40) | head -c 40000000; touch /done; sleep 1000";
    place.said(&["run", "-d", "--name", "flood", &image("busybox"), "sh", "-c", flood]);
    place.said(&["exec", "flood", "sh", "-c", "until [ -e /done ]; do sleep 0.1; done"]);
    let data: u64 = super::place::files_in(&place.path("data/containers"))
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert!(data < 32 << 20, "{data} bytes of logs");
    assert!(own_memory(&place) < 64 << 10, "{} KiB", own_memory(&place));
}

#[test]
fn a_container_that_forks_without_end_can_be_removed() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let bomb = "echo up; bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done";
    place.said(&["run", "-d", "--name", "bomb", "--pids-limit", "100", &image("busybox"), "sh", "-c", bomb]);
    let mut logs = place.start(&["logs", "-f", "bomb"]);
    logs.out.wait_for("up\n");
    logs.error.wait_for("can't fork");
    let stats = place.said(&["stats", "--no-stream", "bomb"]);
    let pids: u32 = stats.lines().nth(1).unwrap().split_whitespace().last().unwrap().parse().unwrap();
    assert!(pids <= 100, "{stats}");
    assert_eq!(place.said(&["rm", "-f", "bomb"]), "bomb\n");
    drop(logs);
    assert_eq!(place.traces(), before);
}

#[test]
fn a_container_that_fills_its_memory_is_killed_and_it_is_said_why() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let ran = place.run(&["run", "--name", "eater", "-m", "64M", &busybox, "tail", "/dev/zero"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(137), ""), "{ran:?}");
    assert!(ran.error.contains("memory") && ran.error.lines().count() == 1, "{ran:?}");
    assert!(place.said(&["inspect", "eater"]).contains("\"out_of_memory\": true"));
    // The limit is one of all its processes; one that is not the first may go alone.
    let ran =
        place.run(&["run", "--rm", "-m", "64M", &busybox, "sh", "-c", "tail /dev/zero; echo $?; exit 3"]);
    assert!(ran.status == Some(3) && ran.out.contains("137"), "{ran:?}");
}

#[test]
fn a_container_that_fills_what_it_can_write_ends_without_harm_to_others() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    place.said(&["run", "-d", "--name", "other", &busybox, "sleep", "1000"]);
    // In memory, where nothing else was asked for: the write fails, or the writer is killed.
    let fill = "cat /dev/zero >/file; echo status $?; rm -f /file; echo alive";
    let ran = place.run(&["run", "--rm", "-m", "64M", &busybox, "sh", "-c", fill]);
    let killed = ran.status == Some(137);
    assert!(killed || (ran.out.contains("status") && ran.out.ends_with("alive\n")), "{ran:?}");
    assert!(!ran.out.contains("status 0"), "{ran:?}");
    assert_eq!(place.said(&["exec", "other", "echo", "well"]), "well\n");
}
