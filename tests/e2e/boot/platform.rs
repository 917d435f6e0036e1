//! What the guest's kernel finds: clocks, interrupt controllers, devices, and nothing to complain of.

use std::collections::BTreeMap;
use std::fs;

use super::run::said_by;

#[test]
fn the_kernels_log_has_no_warning() {
    let said = said_by(&["--cpus", "2"], "dmesg -r");
    let level = |line: &str| line.strip_prefix('<')?.split_once('>')?.0.parse::<u32>().ok();
    let lines: Vec<_> = said.lines().filter_map(|line| level(line).map(|level| (level % 8, line))).collect();
    assert!(lines.len() > 20, "{said}");
    // 4 is a warning, and what is worse is less.
    let mut complaints: Vec<_> =
        lines.iter().filter(|(level, _)| *level <= 4).map(|(_, line)| *line).collect();
    let clock =
        fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap();
    if clock != "tsc\n" {
        // A host that distrusts its processors' counters hands the guest what it has.
        complaints.retain(|line| !line.contains("] clocksource: "));
    }
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn clocks_are_those_that_cost_no_exit() {
    let said = said_by(
        &[],
        "cd /sys/devices/system; cat clocksource/clocksource0/available_clocksource; \
         cat clockevents/clockevent0/current_device; grep -o -w -E 'tsc_deadline_timer|x2apic|hypervisor' /proc/cpuinfo",
    );
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    assert!(lines[0].split(' ').any(|clock| clock == "kvm-clock"), "{said}");
    assert_eq!(lines[1], "lapic-deadline", "{said}");
    let mut flags = lines[2..].to_vec();
    flags.sort_unstable();
    assert_eq!(flags, ["hypervisor", "tsc_deadline_timer", "x2apic"]);
}

#[test]
fn interrupts_go_by_io_apic_and_x2apic() {
    let said = said_by(&["--cpus", "2"], "dmesg | grep x2apic; grep ttyS0 /proc/interrupts");
    assert!(said.contains("] x2apic enabled\n"), "{said}");
    assert!(said.lines().last().unwrap().contains("IO-APIC   4-edge      ttyS0"), "{said}");
}

/// Lines of `grep . FILES` as a map.
fn by_name(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (path, state) = line.split_once(':').unwrap();
        (path.rsplit('/').next().unwrap().to_owned(), state.to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn the_guest_is_no_more_vulnerable_than_the_host() {
    // Model-specific registers that KVM hides from the guest would show here as lost mitigations.
    let said = said_by(&[], "grep . /sys/devices/system/cpu/vulnerabilities/*");
    let guest = by_name(&said);
    let host = |name: &str| fs::read_to_string(format!("/sys/devices/system/cpu/vulnerabilities/{name}"));
    let mut compared = 0;
    for (name, guest) in guest {
        let Ok(host) = host(&name) else {
            continue; // older than the guest's kernel
        };
        compared += 1;
        let host = host.trim();
        assert!(host != "Not affected" || guest == "Not affected", "{name}: {guest}, host {host}");
        assert!(
            host.starts_with("Vulnerable") || !guest.starts_with("Vulnerable"),
            "{name}: {guest}, host {host}"
        );
    }
    assert!(compared > 0, "{said}");
}

#[test]
fn the_entropy_device_gives_entropy() {
    let script = "cat /sys/class/misc/hw_random/rng_current; for n in 1 2; do head -c 16 /dev/hwrng | hexdump -C; done";
    let said = said_by(&[], script);
    let lines: Vec<_> = said.lines().collect();
    let [driver, first, _, second, _] = lines[..] else { panic!("{said}") };
    assert!(driver.starts_with("virtio_rng"), "{said}");
    assert!(first.starts_with("00000000  ") && second.starts_with("00000000  "), "{said}");
    assert_ne!(first, second);
}

#[test]
fn a_machine_without_devices_boots() {
    let said = said_by(&["--no-rng", "--no-balloon"], "ls /sys/bus/virtio/devices | wc -l");
    assert_eq!(said, "0\n");
}

#[test]
fn every_device_is_found_and_driven() {
    let script = "for device in /sys/bus/virtio/devices/*; do \
                  driver=$(readlink $device/driver); echo ${driver##*/} $(cat $device/status); done";
    // DRIVER_OK and all that comes before it (virtio 1.2, section 2.1).
    assert_eq!(said_by(&[], script), "virtio_balloon 0x0000000f\nvirtio_rng 0x0000000f\n");
}
