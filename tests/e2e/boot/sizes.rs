//! As many processors and as much memory as asked for are there.

use super::run::said_by;

#[test]
fn the_guest_has_the_vcpus_asked_for_as_cores_of_one_package() {
    // Ids of packages, of cores, of threads: as many of the latter two as processors, and one of the first.
    let script = "cd /sys/devices/system/cpu; nproc; cat online; \
                  cat cpu*/topology/physical_package_id | sort -u | wc -l; \
                  cat cpu*/topology/core_id | sort -u | wc -l; \
                  cat cpu*/topology/thread_siblings_list | sort -u | wc -l";
    for cpus in [1, 2, 4, 32] {
        let online = if cpus == 1 { "0".to_owned() } else { format!("0-{}", cpus - 1) };
        let said = said_by(&["--cpus", &cpus.to_string()], script);
        assert_eq!(said, format!("{cpus}\n{online}\n1\n{cpus}\n{cpus}\n"));
    }
}

/// The ends of the guest's RAM as it sees them, in MiB.
fn ram(memory: &str) -> Vec<(u64, u64)> {
    let map = said_by(&["--memory", memory], "grep RAM /proc/iomem");
    let range = |line: &str| {
        let (range, _) = line.split_once(" : ").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(start) >> 20, (number(end) + 1) >> 20)
    };
    // The first MiB is in pieces.
    map.lines().map(range).filter(|(_, end)| *end > 1).collect()
}

#[test]
fn the_guest_has_the_memory_asked_for() {
    assert_eq!(ram("64M"), [(1, 64)]);
    assert_eq!(ram("256M"), [(1, 256)]);
    assert_eq!(ram("3G"), [(1, 3072)]);
}

#[test]
fn memory_goes_on_beyond_the_hole_below_4_gib() {
    assert_eq!(ram("5G"), [(1, 3072), (4096, 6144)]);
}

#[test]
fn memory_beyond_the_hole_is_used() {
    // Linux takes from there first: the pages of that zone that are not free.
    let script = "awk '/zone/ {normal = /Normal/} normal && /pages free/ {free = $3} normal && /managed/ {all = $2} \
                  END {print all - free}' /proc/zoneinfo";
    let used: u64 = said_by(&["--memory", "5G"], script).trim().parse().unwrap();
    assert!(used > 1000, "{used} pages");
}
