//! The socket device under a hostile driver, between programs of the host that speak and listen.

#![no_main]

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rvm::devices::virtio::testing::Part;
use rvm::devices::virtio::vsock::Vsock;
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CID: u32 = 3;
const HOST_CID: u64 = 2;
/// The port of the host where an echo listens.
const ECHO: u32 = 1;
/// The port of the guest that a program calls, and the one of the host that its call has.
const CALLED: u32 = 7;
const CALLER: u32 = 1 << 30;
/// Operations of virtio 1.2, section 5.10.6.
const REQUEST: u8 = 1;
const RESET: u8 = 3;
const DATA: u8 = 5;

/// A directory with the echo in it; the device's socket comes and goes.
fn socket() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("rvm-fuzz-vsock-{}", std::process::id()));
        fs::create_dir(&directory).expect("a directory for sockets");
        let echo = UnixListener::bind(directory.join(format!("vm_{ECHO}"))).expect("a socket");
        std::thread::spawn(move || {
            for stream in echo.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        directory.join("vm")
    })
}

/// A packet of the guest's, more or less, or buffers for the host's.
fn request(memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    if input.u8() & 1 == 0 {
        return vec![Part::Writable(input.address(), 44 + u32::from(input.u8()))];
    }
    let (header, data, length) = (slot(input.u8()), slot(input.u8()), input.u8() % 64);
    memory.write_slice(&packet(input, length), GuestAddress(header)).expect("slots are in memory");
    vec![Part::Readable(header, 44), Part::Readable(data, length.into())]
}

/// A header whose fields are mostly right.
fn packet(input: &mut Input, length: u8) -> [u8; 44] {
    let odd = input.u8();
    let wrong = |bit: u8| odd >> bit & 1 & odd >> 7;
    let (host, guest) = match input.u8() % 4 {
        0 => (CALLER + u32::from(input.u8() % 4), CALLED),
        1 => (input.u32(), input.u32()),
        _ => (ECHO, u32::from(input.u8() % 8)),
    };
    let mut header = [0; 44];
    header[0..8].copy_from_slice(&(u64::from(CID) + u64::from(wrong(0))).to_le_bytes());
    header[8..16].copy_from_slice(&(HOST_CID + u64::from(wrong(1))).to_le_bytes());
    header[16..20].copy_from_slice(&guest.to_le_bytes());
    header[20..24].copy_from_slice(&host.to_le_bytes());
    let length = if wrong(2) == 1 { input.length() } else { length.into() };
    header[24..28].copy_from_slice(&length.to_le_bytes());
    header[28] = 1 + wrong(3);
    header[30] = input.u8() % 9;
    header[32] = input.u8() % 4;
    let window = if wrong(4) == 1 { input.length() } else { 1 << 18 };
    header[36..40].copy_from_slice(&window.to_le_bytes());
    header[40..44].copy_from_slice(&input.length().to_le_bytes());
    header
}

fuzz_target!(|input: &[u8]| {
    let config = rvm_config::Vsock { cid: CID, socket: socket().clone() };
    let device = Vsock::open(&config).expect("the name is free");
    let mut caller = UnixStream::connect(socket()).expect("the device listens");
    caller.write_all(format!("CONNECT {CALLED}\nhello").as_bytes()).expect("there is room");
    let mut driver = attack(Box::new(device), input, request);

    driver.initialise(u64::MAX);
    let (buffer, mut stray) = (driver.allocate(256), [0; 44]);
    (stray[0], stray[8], stray[28], stray[30]) = (CID as u8, HOST_CID as u8, 1, DATA);
    let stray = driver.place(&stray);
    driver.submit(0, &[Part::Writable(buffer, 256)]);
    driver.kick(0);
    assert_eq!(driver.request(1, &[Part::Readable(stray, 44)]), 0);
    assert_eq!(driver.wait_used(0).1, 44);
    // The program's call may come before the answer.
    assert!([REQUEST, RESET].contains(&driver.bytes(buffer, 44)[30]));
});
