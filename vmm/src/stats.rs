//! The machine's counters, collected for printing.

use std::fmt;

use crate::devices::virtio::DeviceStats;
use crate::vcpu::ExitCounts;
use crate::vm::{Vm, lock};

/// What a machine has done so far.
pub struct Stats {
    exits: [(&'static str, u64); 6],
    devices: Vec<DeviceLine>,
}

struct DeviceLine {
    name: String,
    operations: u64,
    bytes_in: u64,
    bytes_out: u64,
    errors: u64,
    kicks: u64,
    wakeups: u64,
    interrupts: u64,
}

/// Reads the counters of `vm`, which may be running.
pub fn collect(vm: &Vm) -> Stats {
    let mut exits = [
        ("port reads", 0),
        ("port writes", 0),
        ("mmio reads", 0),
        ("mmio writes", 0),
        ("interrupted", 0),
        ("other", 0),
    ];
    for vcpu in vm.vcpus() {
        let ExitCounts { port_reads, port_writes, mmio_reads, mmio_writes, interrupted, other } =
            vcpu.exits();
        let counters = [port_reads, port_writes, mmio_reads, mmio_writes, interrupted, other];
        for ((_, sum), counter) in exits.iter_mut().zip(counters) {
            *sum += counter.get();
        }
    }
    let devices = (0..).zip(vm.virtio()).map(|(index, transport)| {
        let transport = lock(transport);
        DeviceLine::new(format!("{index} {}", transport.kind().name()), transport.stats())
    });
    Stats { exits, devices: devices.collect() }
}

impl DeviceLine {
    fn new(name: String, stats: &DeviceStats) -> Self {
        let DeviceStats { operations, bytes_in, bytes_out, errors, kicks, wakeups, interrupts } = stats;
        Self {
            name,
            operations: operations.get(),
            bytes_in: bytes_in.get(),
            bytes_out: bytes_out.get(),
            errors: errors.get(),
            kicks: kicks.get(),
            wakeups: wakeups.get(),
            interrupts: interrupts.get(),
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exits to the VMM         count")?;
        for (name, count) in self.exits {
            writeln!(f, "{name:<16} {count:>13}")?;
        }
        writeln!(
            f,
            "device     operations      bytes in     bytes out  errors     kicks   wakeups  interrupts"
        )?;
        for line in &self.devices {
            let DeviceLine { name, operations, bytes_in, bytes_out, errors, kicks, wakeups, interrupts } =
                line;
            writeln!(
                f,
                "{name:<10} {operations:>10} {bytes_in:>13} {bytes_out:>13} {errors:>7} {kicks:>9} {wakeups:>9} {interrupts:>11}"
            )?;
        }
        Ok(())
    }
}
