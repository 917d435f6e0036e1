//! The serial console: a 16550 at COM1, behind vm-superio's registers.
//!
//! Two flows, each bounded, neither ever waiting in a vCPU thread:
//!
//! ```text
//!  guest ── THR ──> backlog (64 KiB) ──> writer          full: LSR says "transmitter busy", the driver waits
//!  guest <── RBR ── FIFO (64 bytes)  <── enqueue()       full: free_space() is 0, the caller stops reading
//! ```
//!
//! Each byte costs the guest an exit; the host's write is not made for each as well. Output goes out at the
//! end of a line, when it is long, and when the driver turns to something else: Linux ends every burst by
//! writing IER, and a guest that polls for input reads LSR twice in a row. So a prompt appears at once, and
//! no timer is needed.
//!
//! Input waits until the driver listens: one that sets up the port throws away what it finds there.
//!
//! A writer that would block keeps the backlog until [`Serial::flush`] finds it ready. What is written to a
//! writer that fails otherwise (a closed pipe) is dropped: nobody is there to read it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Write};

use vm_superio::Trigger;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;

/// First port of COM1.
pub const PORT: u16 = 0x3f8;
/// Ports from [`PORT`].
pub const PORTS: u16 = 8;
/// The interrupt line of COM1.
pub const GSI: u32 = 4;

/// Most output kept for a writer that is not ready, in bytes.
const BACKLOG: usize = 64 << 10;
/// Bytes that a driver sends once it was told that the transmitter is idle, without asking before each.
const BURST: usize = 64;
/// A line longer than this goes out in pieces.
const LONG: usize = 1 << 10;

/// Transmitter holding register, receiver buffer.
const DATA: u8 = 0;
/// Interrupt enable register.
const IER: u8 = 1;
const IER_DATA_READY: u8 = 1 << 0;
/// Interrupt identification register; its low bits are 1 for none, or say which it is.
const IIR: u8 = 2;
const IIR_NONE: u8 = 1 << 0;
const IIR_DATA_READY: u8 = 1 << 2;
/// Line control register; its bit 7 puts the divisor in the place of [`DATA`] and [`IER`].
const LCR: u8 = 3;
const LCR_DIVISOR: u8 = 1 << 7;
/// Modem control register; its bit 3 connects the interrupt, its bit 4 feeds what is sent back as received.
const MCR: u8 = 4;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
/// Line status register; its bits 5 and 6 say that the transmitter takes a byte, and that it is idle.
const LSR: u8 = 5;
const LSR_TRANSMITTER: u8 = 0b11 << 5;

/// The serial port.
pub struct Serial {
    uart: vm_superio::Serial<Line, NoEvents, Transmitter>,
    /// Bytes that the empty receive FIFO holds.
    fifo_size: usize,
    /// The caller was told that there is no space for input.
    starved: bool,
    /// The last access was a read of LSR: one more means that the driver polls.
    polled: bool,
    attention: EventFd,
}

impl Serial {
    /// A port that sends to `out` and raises `irq`. `out` should answer `WouldBlock` rather than block (see
    /// [`crate::output_stream`]), as it is called on vCPU threads. Fails when the process is out of descriptors.
    pub fn new(out: Box<dyn Write + Send>, irq: EventFd) -> io::Result<Self> {
        let transmitter = Transmitter { out, backlog: VecDeque::new(), blocked: false };
        let mut uart = vm_superio::Serial::new(Line(irq), transmitter);
        // As a reset leaves it.
        uart.write(MCR, 0).ok();
        let (fifo_size, attention) = (uart.fifo_capacity(), EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Self { uart, fifo_size, starved: false, polled: false, attention })
    }

    /// Readable when the main thread should look again: input that found no space has some, or
    /// [`Self::output_blocked`] became true.
    pub fn attention(&self) -> &EventFd {
        &self.attention
    }

    /// How many bytes [`Self::enqueue`] takes now: the main thread reads no more than that at once, and when
    /// it is none waits for [`Self::attention`] before it asks again.
    pub fn free_space(&mut self) -> usize {
        let space = if self.listens() { self.uart.fifo_capacity() } else { 0 };
        self.starved = space == 0;
        space
    }

    /// Gives input to the guest; answers how many bytes were taken.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let taken = input.get(..self.free_space()).unwrap_or(input);
        self.uart.enqueue_raw_bytes(taken).unwrap_or(0)
    }

    /// Whether output waits for the writer to be ready. While it does, the main thread watches the writer's
    /// descriptor, and calls [`Self::flush`] when that is writable.
    pub fn output_blocked(&self) -> bool {
        self.uart.writer().blocked
    }

    /// Sends what waits, as far as the writer takes it. To be called at the end of the machine as well.
    pub fn flush(&mut self) {
        let transmitter = self.uart.writer_mut();
        let was_full = transmitter.is_full();
        transmitter.send();
        if was_full && !self.uart.writer().is_full() {
            // The driver was told "busy"; enabling the interrupt that is enabled tells it "empty" again. With
            // the divisor there instead, this changes nothing, and the driver enables interrupts itself.
            let enabled = self.uart.read(IER);
            self.uart.write(IER, enabled).ok();
        }
    }

    /// Sends what waits unless the writer is known not to be ready.
    fn send(&mut self) {
        let transmitter = self.uart.writer_mut();
        if !transmitter.blocked && !transmitter.send() {
            self.attend();
        }
    }

    fn attend(&self) {
        // A full counter is a wake-up already.
        self.attention.write(1).ok();
    }

    /// Tells the main thread of space for input, once the FIFO is empty: fewer, larger reads.
    fn tell_of_space(&mut self) {
        if self.starved && self.listens() && self.uart.fifo_capacity() == self.fifo_size {
            self.starved = false;
            self.attend();
        }
    }

    /// Whether the driver has enabled the interrupt for input, and connected it. One that tries out what the
    /// port can do enables, for a moment, what it has not connected.
    fn listens(&mut self) -> bool {
        let [ier, lcr, mcr] = [IER, LCR, MCR].map(|register| self.uart.read(register));
        mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && lcr & LCR_DIVISOR == 0 && ier & IER_DATA_READY != 0
    }

    /// The interrupt identification, which says that there is data as long as there is: a driver stops
    /// reading before the FIFO is empty, and looks here whether to go on.
    fn interrupt(&mut self, identification: u8) -> u8 {
        if self.listens() && self.uart.fifo_capacity() < self.fifo_size {
            identification & !IIR_NONE | IIR_DATA_READY
        } else {
            identification
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let (Ok(offset), [value]) = (u8::try_from(offset), &mut *data) else {
            return data.fill(0xff);
        };
        *value = self.uart.read(offset);
        let polls = offset == LSR;
        if !polls || self.polled {
            self.send();
        }
        self.polled = polls;
        match offset {
            LSR if self.uart.writer().is_full() => *value &= !LSR_TRANSMITTER,
            DATA => self.tell_of_space(),
            IIR => *value = self.interrupt(*value),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), [value]) = (u8::try_from(offset), data) else {
            return;
        };
        self.polled = false;
        // Neither the interrupt nor the transmitter fails.
        self.uart.write(offset, *value).ok();
        if matches!(offset, IER | LCR | MCR) {
            self.tell_of_space();
        }
        if offset != DATA || *value == b'\n' || self.uart.writer().backlog.len() >= LONG {
            self.send();
        }
    }
}

/// The interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        // A full counter is an interrupt already.
        self.0.write(1).ok();
        Ok(())
    }
}

/// Where vm-superio writes single bytes: the backlog.
struct Transmitter {
    out: Box<dyn Write + Send>,
    backlog: VecDeque<u8>,
    /// The last attempt found the writer not ready.
    blocked: bool,
}

impl Transmitter {
    /// Whether a burst of the driver might not fit.
    fn is_full(&self) -> bool {
        self.backlog.len() > BACKLOG - BURST
    }

    /// Writes the backlog; answers false if some is left because the writer is not ready.
    fn send(&mut self) -> bool {
        while !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            match self.out.write(first) {
                Ok(0) => self.backlog.clear(),
                Ok(written) => drop(self.backlog.drain(..written.min(first.len()))),
                // A signal asks a vCPU thread to do something else than write.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.blocked = true;
                    return false;
                }
                Err(_) => self.backlog.clear(),
            }
        }
        self.blocked = false;
        true
    }
}

impl Write for Transmitter {
    /// Never fails. A byte that the driver sends in spite of "busy" is lost, as on a wire.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let free = BACKLOG.saturating_sub(self.backlog.len());
        self.backlog.extend(bytes.iter().take(free));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests;
