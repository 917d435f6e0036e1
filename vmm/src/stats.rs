//! The machine's counters, collected, and as a table for people.

use std::fmt;

use rvm_config::control::{DeviceStats, ExitStats, Stats};

use crate::devices::virtio::mmio::MmioTransport;
use crate::devices::virtio::stats::DeviceStats as Counters;
use crate::vcpu::ExitCounts;
use crate::vm::{Vm, lock};

/// Reads the counters of `vm`, which may be running.
pub fn collect(vm: &Vm) -> Stats {
    let mut exits = ExitStats::default();
    for vcpu in vm.vcpus() {
        add(&mut exits, vcpu.exits());
    }
    let devices = vm.virtio().iter().map(|transport| of_device(&lock(transport)));
    Stats {
        exits,
        devices: devices.collect(),
        memory: vm.resident_memory(),
        balloon: vm.balloon().map(|balloon| balloon.actual()),
    }
}

fn add(sum: &mut ExitStats, counts: &ExitCounts) {
    let ExitCounts { port_reads, port_writes, mmio_reads, mmio_writes, interrupted, other } = counts;
    sum.port_reads += port_reads.get();
    sum.port_writes += port_writes.get();
    sum.mmio_reads += mmio_reads.get();
    sum.mmio_writes += mmio_writes.get();
    sum.interrupted += interrupted.get();
    sum.other += other.get();
}

fn of_device(transport: &MmioTransport) -> DeviceStats {
    let Counters { operations, bytes_in, bytes_out, errors, kicks, wakeups, interrupts } =
        &**transport.stats();
    DeviceStats {
        device: transport.kind().name().to_owned(),
        operations: operations.get(),
        bytes_in: bytes_in.get(),
        bytes_out: bytes_out.get(),
        errors: errors.get(),
        kicks: kicks.get(),
        wakeups: wakeups.get(),
        interrupts: interrupts.get(),
    }
}

/// Counters as a table.
pub struct Table<'a>(pub &'a Stats);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { exits, devices, memory, balloon } = self.0;
        let ExitStats { port_reads, port_writes, mmio_reads, mmio_writes, interrupted, other } = exits;
        writeln!(f, "exits to the VMM         count")?;
        for (name, count) in [
            ("port reads", port_reads),
            ("port writes", port_writes),
            ("mmio reads", mmio_reads),
            ("mmio writes", mmio_writes),
            ("interrupted", interrupted),
            ("other", other),
        ] {
            writeln!(f, "{name:<16} {count:>13}")?;
        }
        writeln!(f, "{:<16} {memory:>13}", "memory, bytes")?;
        if let Some(balloon) = balloon {
            writeln!(f, "{:<16} {balloon:>13}", "balloon, bytes")?;
        }
        writeln!(
            f,
            "device     operations      bytes in     bytes out  errors     kicks   wakeups  interrupts"
        )?;
        for (index, line) in devices.iter().enumerate() {
            let DeviceStats { device, operations, bytes_in, bytes_out, errors, kicks, wakeups, interrupts } =
                line;
            let name = format!("{index} {device}");
            writeln!(
                f,
                "{name:<10} {operations:>10} {bytes_in:>13} {bytes_out:>13} {errors:>7} {kicks:>9} {wakeups:>9} {interrupts:>11}"
            )?;
        }
        Ok(())
    }
}
