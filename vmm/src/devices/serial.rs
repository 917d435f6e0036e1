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
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::output_stream::PolledWriter;

    const THR_EMPTY_ENABLE: u8 = 2;

    /// A port that writes to a pipe, its interrupt, and the pipe's other end, non-blocking.
    fn port() -> (Serial, EventFd, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let serial = Serial::new(polled(write), irq.try_clone().unwrap()).unwrap();
        (serial, irq, File::from(read))
    }

    fn polled(fd: OwnedFd) -> Box<dyn Write + Send> {
        Box::new(PolledWriter(File::from(fd)))
    }

    /// Does what a driver does last when it opens the port.
    fn listen(serial: &mut Serial) {
        serial.write(MCR.into(), &[MCR_OUT2]);
        serial.write(IER.into(), &[IER_DATA_READY]);
    }

    /// Writes `text` as a driver does that checks LSR before each byte; answers how many bytes it could.
    fn print(serial: &mut Serial, text: &[u8]) -> usize {
        for (sent, byte) in text.iter().enumerate() {
            if !ready(serial) {
                return sent;
            }
            serial.write(DATA.into(), &[*byte]);
        }
        text.len()
    }

    fn ready(serial: &mut Serial) -> bool {
        register(serial, LSR) & LSR_TRANSMITTER == LSR_TRANSMITTER
    }

    fn register(serial: &mut Serial, offset: u8) -> u8 {
        let mut value = [0];
        serial.read(offset.into(), &mut value);
        value[0]
    }

    /// What is in the pipe.
    fn output(pipe: &mut File) -> String {
        let mut bytes = [0; 4096];
        let length = pipe.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_line_goes_out_at_its_end() {
        let (mut serial, _, mut pipe) = port();
        print(&mut serial, b"hello");
        assert_eq!(output(&mut pipe), "");
        print(&mut serial, b"\n");
        assert_eq!(output(&mut pipe), "hello\n");
    }

    #[test]
    fn a_prompt_goes_out_when_the_driver_turns_to_something_else() {
        let (mut serial, _, mut pipe) = port();
        print(&mut serial, b"login: ");
        serial.write(IER.into(), &[0]);
        assert_eq!(output(&mut pipe), "login: ");

        print(&mut serial, b"# ");
        register(&mut serial, LSR);
        register(&mut serial, LSR);
        assert_eq!(output(&mut pipe), "# ");
    }

    #[test]
    fn a_long_line_goes_out_in_pieces() {
        let (mut serial, _, mut pipe) = port();
        print(&mut serial, &[b'x'; LONG + 1]);
        assert_eq!(output(&mut pipe).len(), LONG);
    }

    #[test]
    fn output_that_nobody_reads_waits_and_holds_the_driver_back() {
        let (mut serial, irq, mut pipe) = port();
        serial.write(IER.into(), &[THR_EMPTY_ENABLE]);
        let line = [[b'x'; 127].as_slice(), b"\n"].concat();
        let mut sent = 0;
        while print(&mut serial, &line) == line.len() {
            sent += line.len();
        }
        assert!(serial.output_blocked());
        assert!(serial.attention().read().is_ok());
        let backlog = |serial: &Serial| serial.uart.writer().backlog.len();
        assert_eq!(backlog(&serial), BACKLOG - BURST + 1);
        // One that was told "idle" just before sends its burst, and nothing of it is lost.
        (1..BURST).for_each(|_| serial.write(0, b"y"));
        assert_eq!(backlog(&serial), BACKLOG);
        serial.write(0, b"z");
        assert_eq!(backlog(&serial), BACKLOG, "the backlog does not grow");

        // The driver takes the interrupt and is told "busy"; room is a new interrupt.
        irq.read().unwrap();
        register(&mut serial, 2);
        serial.flush();
        assert!(serial.output_blocked());
        assert!(serial.attention().read().is_err(), "who flushes sees for himself what is left");
        let mut received = 0;
        while serial.output_blocked() {
            received += output(&mut pipe).len();
            serial.flush();
        }
        assert!(irq.read().is_ok());
        assert!(ready(&mut serial));
        received +=
            std::iter::repeat_with(|| output(&mut pipe).len()).take_while(|got| *got > 0).sum::<usize>();
        assert!(
            received >= sent + BURST - 1 && received <= sent + line.len() + BURST,
            "{received} of {sent}"
        );
    }

    #[test]
    fn output_to_a_closed_pipe_is_dropped() {
        let (mut serial, _, pipe) = port();
        drop(pipe);
        assert_eq!(print(&mut serial, b"one\ntwo\n"), 8);
        assert!(serial.uart.writer().backlog.is_empty() && !serial.output_blocked());
    }

    #[test]
    fn input_beyond_the_fifo_waits_until_the_driver_has_read_it_empty() {
        let (mut serial, irq, _pipe) = port();
        listen(&mut serial);
        let input: Vec<u8> = (0..100).collect();
        assert_eq!(serial.enqueue(&input), 64);
        assert!(irq.read().is_ok());
        assert_eq!(serial.free_space(), 0);
        let first: Vec<u8> = (0..64).map(|_| register(&mut serial, DATA)).collect();
        assert!(serial.attention().read().is_ok());
        assert_eq!(serial.enqueue(&input[64..]), 36);
        let rest: Vec<u8> = (0..36).map(|_| register(&mut serial, DATA)).collect();
        assert_eq!([first, rest].concat(), input);
        assert!(serial.attention().read().is_err(), "there was space all the time");
    }

    #[test]
    fn input_waits_until_the_driver_listens() {
        let (mut serial, irq, _pipe) = port();
        assert_eq!((serial.free_space(), serial.enqueue(b"in")), (0, 0));
        // As Linux tries the port.
        for enabled in [0, 0xf, 0] {
            serial.write(IER.into(), &[enabled]);
            assert_eq!(serial.free_space(), 0);
        }
        serial.write(MCR.into(), &[MCR_OUT2]);
        serial.write(LCR.into(), &[LCR_DIVISOR]);
        serial.write(IER.into(), &[IER_DATA_READY]);
        assert_eq!(serial.free_space(), 0, "that was the divisor");
        serial.write(LCR.into(), &[0]);
        assert!(serial.attention().read().is_err());
        serial.write(IER.into(), &[IER_DATA_READY]);
        assert!(serial.attention().read().is_ok());
        assert_eq!(serial.enqueue(b"in"), 2);
        assert!(irq.read().is_ok());
    }

    #[test]
    fn data_that_the_driver_left_is_still_identified() {
        let (mut serial, _irq, _pipe) = port();
        listen(&mut serial);
        serial.enqueue(b"ab");
        for left in [2, 1, 0] {
            let identification = register(&mut serial, IIR) & 0xf;
            assert_eq!(identification, if left > 0 { IIR_DATA_READY } else { IIR_NONE });
            register(&mut serial, DATA);
        }
    }

    #[test]
    fn input_waits_for_the_end_of_a_loopback_test() {
        let (mut serial, _, mut pipe) = port();
        listen(&mut serial);
        serial.write(MCR.into(), &[MCR_OUT2 | MCR_LOOP]);
        serial.write(DATA.into(), b"t");
        assert_eq!((serial.free_space(), serial.enqueue(b"in")), (0, 0));
        assert_eq!(register(&mut serial, DATA), b't');
        assert!(serial.attention().read().is_err());
        serial.write(MCR.into(), &[MCR_OUT2]);
        assert!(serial.attention().read().is_ok());
        assert_eq!(serial.enqueue(b"in"), 2);
        assert_eq!(output(&mut pipe), "");
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let (mut serial, _, mut pipe) = port();
        for offset in [0, 1, 7, 8, 255, 256, u64::MAX] {
            let mut data = [0; 4];
            serial.write(offset, &[1, 2, 3, 4]);
            serial.write(offset, &[]);
            serial.read(offset, &mut data);
            assert_eq!(data, [0xff; 4]);
            serial.read(offset, &mut []);
        }
        assert_eq!(output(&mut pipe), "");
    }
}
