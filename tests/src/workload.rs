//! Benchmarks of devices: a guest with the program `guest-bench` in it, ordered about over its console, and what
//! each order costs the whole machine.
//!
//! The cost is counted on the host around an order: executed instructions (host, VMM and guest together, where time is
//! counted in them; see docs/testing.md) and exits of the VM, less what an order to do nothing costs. The same kernel,
//! image and program run in every VMM that is compared.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::artifact;
use crate::guest::{self, Guest};

/// What `guest-bench` says when it waits for orders, and when it has obeyed one.
pub const READY: &str = "guest-bench is ready";
/// See [`READY`].
pub const DONE: &str = "obeyed.";

/// Bytes that go into a stream with one call.
pub const PIECE: usize = 128 << 10;

/// Where the guest's program is in the lab: `lab bench` puts it there.
const PROGRAM: &str = "/pay/guest-bench";
const KVM_STATS: &str = "/sys/kernel/debug/kvm";
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";
/// In lab time, which leaps where the lab is idle: this ends what hangs, and never what is slow.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often an order is given; the cost is the median.
const ROUNDS: usize = 3;

/// What something cost the machine.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    instructions: f64,
    exits: f64,
    /// Those of the exits that went on to the VMM to have a device register read or written.
    registers: f64,
}

/// A guest with `guest-bench` waiting for orders.
#[derive(Debug)]
pub struct Workload {
    guest: Guest,
    nothing: Cost,
}

impl Workload {
    /// Boots the guest of this VMM, and gives it orders that are not counted.
    pub fn start(mut vmm: Command, prepare: &[&str]) -> Result<Self, guest::Error> {
        let mut guest = Guest::start(&mut vmm)?;
        guest.wait_for(READY, PATIENCE)?;
        let mut workload = Self { guest, nothing: Cost::default() };
        for order in prepare {
            workload.once(order)?;
        }
        // About as long as the other orders: its characters are most of its cost.
        workload.nothing = workload.median("nothing said in as many words")?;
        Ok(workload)
    }

    /// What an order costs, divided by `operations`. The first time it is given is not counted.
    fn cost(&mut self, order: &str, operations: u32) -> Result<Cost, guest::Error> {
        let cost = self.median(order)?;
        let each = |all: f64, nothing: f64| (all - nothing).max(0.0) / f64::from(operations);
        Ok(Cost {
            instructions: each(cost.instructions, self.nothing.instructions),
            exits: each(cost.exits, self.nothing.exits),
            registers: each(cost.registers, self.nothing.registers),
        })
    }

    fn median(&mut self, order: &str) -> Result<Cost, guest::Error> {
        self.once(order)?;
        let mut costs = (0..ROUNDS).map(|_| self.once(order)).collect::<Result<Vec<_>, _>>()?;
        costs.sort_by(|a, b| a.instructions.total_cmp(&b.instructions));
        Ok(costs.get(ROUNDS / 2).copied().unwrap_or_default())
    }

    fn once(&mut self, order: &str) -> Result<Cost, guest::Error> {
        let (exits, registers) = exits()?;
        let start = Instant::now();
        self.guest.enter(order)?;
        self.guest.wait_for(DONE, PATIENCE)?;
        let instructions = start.elapsed().as_secs_f64() * 1e9;
        let (exits_then, registers_then) = self::exits()?;
        Ok(Cost {
            instructions,
            exits: f64::from(exits_then.saturating_sub(exits)),
            registers: f64::from(registers_then.saturating_sub(registers)),
        })
    }
}

/// All exits of the VMs of this host, of which there is one, and those for registers of devices, as KVM counts them.
fn exits() -> io::Result<(u32, u32)> {
    let read = |counter: &str| -> io::Result<u32> {
        let count = fs::read_to_string(Path::new(KVM_STATS).join(counter))?;
        count.trim().parse().map_err(io::Error::other)
    };
    Ok((read("exits")?, read("mmio_exits")?))
}

/// One line of a benchmark's table.
#[derive(Debug)]
pub struct Load {
    /// What the line is called.
    pub name: &'static str,
    /// What the guest is told to do, and by what its cost is divided.
    pub order: String,
    /// See `order`.
    pub operations: u32,
}

/// The costs of some loads in some VMMs, printed as they come and kept for the file.
#[derive(Debug)]
pub struct Table {
    loads: Vec<Load>,
    figures: Map<String, Value>,
}

impl Table {
    /// A table that will have these lines for each VMM.
    pub fn new(loads: Vec<Load>) -> io::Result<Self> {
        // A halted vCPU that polls executes instructions that are nobody's work.
        fs::write(HALT_POLL, "0")?;
        println!("{:<14} {:<28} {:>14} {:>8} {:>10}", "VMM", "load", "instructions", "exits", "registers");
        Ok(Self { loads, figures: Map::new() })
    }

    /// Runs the loads in a guest of this VMM.
    pub fn add(&mut self, name: &str, vmm: Command, prepare: &[&str]) -> Result<(), guest::Error> {
        let mut workload = Workload::start(vmm, prepare)?;
        let mut figures = Map::new();
        for load in &self.loads {
            let Cost { instructions, exits, registers } = workload.cost(&load.order, load.operations)?;
            println!("{name:<14} {:<28} {instructions:>14.0} {exits:>8.2} {registers:>10.2}", load.name);
            let figure = json!({ "instructions": instructions, "exits": exits, "registers": registers });
            figures.insert(load.name.to_owned(), figure);
        }
        self.figures.insert(name.to_owned(), figures.into());
        Ok(())
    }

    /// Writes the figures for the outside.
    pub fn keep(self, name: &str) -> io::Result<()> {
        fs::write(artifact::out().join(name), Value::from(self.figures).to_string())
    }
}

/// `rvm boot` with 1 vCPU, 128 MiB and `guest-bench`; its devices can be added.
pub fn rvm(image: &Path, devices: &[&str]) -> Command {
    let mut command = Command::new(artifact::rvm());
    command.arg("boot").args(devices).arg("--kernel").arg(artifact::vmlinux()).arg("--initrd").arg(image);
    command.args(["--", "/guest-bench"]);
    command
}

/// QEMU's microvm, as lean as it gets, with the same.
pub fn qemu(image: &Path, devices: &[&str]) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "microvm,acpi=on,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off", "-accel", "kvm"]);
    command.args(["-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-serial", "stdio", "-no-reboot", "-sandbox", "on"]);
    // Else its transport is that of before virtio 1.0.
    command.args(["-global", "virtio-mmio.force-legacy=false"]).args(devices);
    command.arg("-kernel").arg(artifact::vmlinux()).arg("-initrd").arg(image);
    command.arg("-append").arg(format!("{} -- /guest-bench", rvm::boot::DEFAULT_CMDLINE));
    command
}

/// Makes the guest's image with `guest-bench` in it: Linux takes archives one after the other.
pub fn image() -> io::Result<PathBuf> {
    let mut image = fs::read(artifact::initramfs())?;
    add_program(&mut image, "guest-bench", &fs::read(PROGRAM)?);
    add_program(&mut image, "TRAILER!!!", &[]);
    let path = std::env::temp_dir().join("bench.cpio");
    fs::write(&path, image)?;
    Ok(path)
}

/// A file of a cpio archive; the fields are those of Documentation/driver-api/early-userspace/buffer-format.rst.
fn add_program(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let fields = [0, 0o100_755, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08X}").into_bytes());
    }
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// What the guest asks of the host's end of a stream, in front of the bytes.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Send back so many bytes, each as it comes.
    Echo = 1,
    /// Read so many bytes, then send one.
    Take = 2,
    /// Send so many bytes.
    Give = 3,
}

impl Order {
    /// Sends this order for `count`.
    pub fn send(self, count: u64, stream: &mut File) -> io::Result<()> {
        let mut order = vec![self as u8];
        order.extend(count.to_le_bytes());
        stream.write_all(&order)
    }
}

/// The host's end of a stream: obeys until the guest closes it.
pub fn serve(mut stream: File) -> io::Result<()> {
    let mut order = [0; 9];
    loop {
        match stream.read_exact(&mut order) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [order, count @ ..] = order;
        let count = u64::from_le_bytes(count);
        match order {
            1 => {
                let mut byte = [0];
                for _ in 0..count {
                    stream.read_exact(&mut byte)?;
                    stream.write_all(&byte)?;
                }
            }
            2 => {
                take(&mut stream, count)?;
                stream.write_all(&[1])?;
            }
            _ => give(&mut stream, count)?,
        }
    }
}

/// Writes `bytes`, a piece at a time.
pub fn give(stream: &mut File, bytes: u64) -> io::Result<()> {
    let piece = vec![0x5a; PIECE];
    let mut rest = bytes;
    while rest > 0 {
        let length = usize::try_from(rest).map_or(PIECE, |rest| rest.min(PIECE));
        let written = stream.write(piece.get(..length).unwrap_or_default())?;
        rest -= written as u64;
    }
    Ok(())
}

/// Reads `bytes`; an error if the stream ends before.
pub fn take(stream: &mut File, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut rest = bytes;
    while rest > 0 {
        let length = usize::try_from(rest).map_or(PIECE, |rest| rest.min(PIECE));
        match stream.read(piece.get_mut(..length).unwrap_or_default())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => rest -= read as u64,
        }
    }
    Ok(())
}
