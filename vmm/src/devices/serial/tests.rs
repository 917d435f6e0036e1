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
    received += std::iter::repeat_with(|| output(&mut pipe).len()).take_while(|got| *got > 0).sum::<usize>();
    assert!(received >= sent + BURST - 1 && received <= sent + line.len() + BURST, "{received} of {sent}");
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
