//! The devices behind ports under a hostile guest: serial console, keyboard controller, panic device, power
//! control, event port.
//!
//! What the host does with the console meanwhile is of the input's choice as well: it types, and takes output or
//! does not. Set up anew, the console has to work.

#![no_main]

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use rvm::devices::machine_event::MachineEvents;
use rvm::devices::{acpi_power, i8042, pvpanic, serial};
use rvm::vm::{lock, port_bus};
use rvm_config::guest_abi::EVENT_PORT;
use rvm_fuzz::Input;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Registers of a 16550: data, interrupt enable, line control, modem control.
const DATA: u64 = 0;
const IER: u64 = 1;
const LCR: u64 = 3;
const MCR: u64 = 4;

/// The last byte written to the console, and whether its reader is ready.
#[derive(Clone, Default)]
struct Reader {
    last: Arc<Mutex<u8>>,
    away: Arc<AtomicBool>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.away.load(Ordering::Relaxed) {
            return Err(ErrorKind::WouldBlock.into());
        }
        if let Some(last) = bytes.last() {
            *lock(&self.last) = *last;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the devices are: first port, and how many.
const PORTS: [(u16, u16); 5] = [
    (serial::PORT, serial::PORTS),
    (i8042::PORT, i8042::PORTS),
    (pvpanic::PORT, 1),
    (acpi_power::CONTROL_PORT, acpi_power::PORTS),
    (EVENT_PORT, 4),
];

/// A port of a device, or one beside it.
fn port(input: &mut Input) -> u64 {
    let (first, count) = PORTS[usize::from(input.u8()) % PORTS.len()];
    u64::from(first) + u64::from(u16::from(input.u8()) % (count + 2)) - 1
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input::new(input);
    let events = MachineEvents::new().expect("the process has descriptors left");
    let irq = EventFd::new(EFD_NONBLOCK).expect("the process has descriptors left");
    let reader = Reader::default();
    let console =
        serial::Serial::new(Box::new(reader.clone()), irq).expect("the process has descriptors left");
    let console = Arc::new(Mutex::new(console));
    let bus = port_bus(&events, &console);

    while let Some(action) = input.byte() {
        let mut data = [0; 8];
        match action % 8 {
            0..3 => {
                let (port, width) = (port(&mut input), 1 << (input.u8() % 4));
                bus.read(port, &mut data[..width]);
            }
            3..6 => {
                let (port, width) = (port(&mut input), 1 << (input.u8() % 4));
                data.fill_with(|| input.u8());
                bus.write(port, &data[..width]);
            }
            6 => {
                let mut console = lock(&console);
                let (space, typed) = (console.free_space(), input.bytes(255));
                assert_eq!(console.enqueue(typed), typed.len().min(space));
            }
            _ => {
                reader.away.fetch_not(Ordering::Relaxed);
                lock(&console).flush();
            }
        }
    }

    reader.away.store(false, Ordering::Relaxed);
    lock(&console).flush();
    for register in [LCR, MCR, IER] {
        bus.write(u64::from(serial::PORT) + register, &[0]);
    }
    for last in [b'!', b'\n'] {
        bus.write(u64::from(serial::PORT) + DATA, &[last]);
    }
    assert_eq!(*lock(&reader.last), b'\n');
});
