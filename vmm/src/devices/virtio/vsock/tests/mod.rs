//! A guest with a socket device: a driver that speaks the protocol of virtio 1.2, section 5.10, and programs of
//! the host at the other end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a failing call is a failing test"
)]

mod connect;
mod ends;
mod flow;
mod hostile;
mod life;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::connection::Ports;
use super::packet::{HEADER_SIZE, HOST_CID, Header, NO_MORE, Op, STREAM};
use super::{RECEIVE, TRANSMIT, Vsock, VsockError};
use crate::devices::virtio::testing::{Driver, PATIENCE, Part};
use crate::devices::virtio::{DeviceStats, VirtioDevice};

/// The guest's identifier.
const CID: u32 = 9;
/// Receive buffers of the guest, and their size: what Linux uses.
const BUFFERS: usize = 32;
const BUFFER_SIZE: u32 = 4096;
/// The largest packet that the guest sends.
const MOST_DATA: usize = 64 << 10;
/// What the guest keeps for a connection, unless a test says otherwise.
const GUEST_WINDOW: u32 = 256 << 10;

/// A directory of its own for sockets, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rvm-vsock-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("vm.sock")
    }

    fn open(&self) -> Result<Vsock, VsockError> {
        Vsock::open(&rvm_config::Vsock { cid: CID, socket: self.socket() })
    }

    /// A program of the host that listens for connections of the guest to `port`.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.0.join(format!("vm.sock_{port}"))).unwrap()
    }

    /// A program of the host that calls the guest.
    fn call(&self, line: &str) -> UnixStream {
        let mut program = UnixStream::connect(self.socket()).unwrap();
        program.set_read_timeout(Some(PATIENCE)).unwrap();
        program.set_write_timeout(Some(PATIENCE)).unwrap();
        program.write_all(line.as_bytes()).unwrap();
        program
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The guest's side of a connection.
#[derive(Debug)]
struct Socket {
    /// What the guest keeps for its reader, as it tells the host.
    window: u32,
    /// What the host said it keeps, and how much of that it passed on.
    host_window: u32,
    host_forwarded: u32,
    sent: u32,
    received: u32,
    /// `received` as the host knows it. Whatever arrives is taken as read at once.
    told: u32,
    inbox: Vec<u8>,
    /// SHUTDOWN flags of the host.
    host_flags: u32,
    open: bool,
    reset: bool,
    asked: bool,
}

impl Socket {
    fn new(window: u32) -> Self {
        Self {
            window,
            host_window: 0,
            host_forwarded: 0,
            sent: 0,
            received: 0,
            told: 0,
            inbox: Vec::new(),
            host_flags: 0,
            open: false,
            reset: false,
            asked: false,
        }
    }

    fn credit(&self) -> u32 {
        self.host_window - self.sent.wrapping_sub(self.host_forwarded)
    }
}

/// A guest whose driver runs.
struct Guest {
    driver: Driver,
    stats: Arc<DeviceStats>,
    sockets: HashMap<Ports, Socket>,
    /// Packets that belong to no socket of the guest.
    strays: Vec<Header>,
    buffers: HashMap<u16, u64>,
    header_at: u64,
    data_at: u64,
}

impl Guest {
    fn start(directory: &Directory) -> Self {
        Self::with_device(directory.open().unwrap())
    }

    fn with_device(device: Vsock) -> Self {
        let mut guest = Self::without_buffers(device);
        guest.give_buffers();
        guest
    }

    fn without_buffers(device: Vsock) -> Self {
        let stats = device.stats();
        let mut driver = Driver::start(Box::new(device), u64::MAX);
        let (header_at, data_at) = (driver.allocate(HEADER_SIZE), driver.allocate(MOST_DATA));
        let (sockets, strays, buffers) = (HashMap::new(), Vec::new(), HashMap::new());
        Self { driver, stats, sockets, strays, buffers, header_at, data_at }
    }

    /// Gives the device buffers for packets.
    fn give_buffers(&mut self) {
        for _ in 0..BUFFERS {
            let at = self.driver.allocate(BUFFER_SIZE as usize);
            let head = self.driver.submit(RECEIVE, &[Part::Writable(at, BUFFER_SIZE)]);
            self.buffers.insert(head, at);
        }
        self.driver.kick(RECEIVE);
    }

    /// Takes the buffers away without the device noticing: those it uses are not given again.
    fn keep_buffers(&mut self) {
        self.buffers.clear();
    }

    /// Sends a packet and waits until the device has taken it.
    fn send(&mut self, header: &Header, data: &[u8]) {
        self.driver.memory.write_slice(&header.to_bytes(), GuestAddress(self.header_at)).unwrap();
        self.driver.memory.write_slice(data, GuestAddress(self.data_at)).unwrap();
        let length = u32::try_from(data.len()).unwrap();
        let parts = [
            Part::Readable(self.header_at, u32::try_from(HEADER_SIZE).unwrap()),
            Part::Readable(self.data_at, length),
        ];
        let parts = if data.is_empty() { &parts[..1] } else { &parts[..] };
        assert_eq!(self.driver.request(TRANSMIT, parts), 0);
    }

    /// A packet of the connection with all the host is to know.
    fn header(&mut self, ports: Ports, op: Op) -> Header {
        let mut header = packet(ports, op);
        if let Some(socket) = self.sockets.get_mut(&ports) {
            socket.told = socket.received;
            (header.buf_alloc, header.fwd_cnt) = (socket.window, socket.received);
        }
        header
    }

    fn send_op(&mut self, ports: Ports, op: Op) {
        let header = self.header(ports, op);
        self.send(&header, &[]);
    }

    fn shutdown(&mut self, ports: Ports, flags: u32) {
        let header = Header { flags, ..self.header(ports, Op::Shutdown) };
        self.send(&header, &[]);
    }

    /// Sends one packet of data, whether there is credit or not.
    fn send_data(&mut self, ports: Ports, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let header = Header { len, ..self.header(ports, Op::Data) };
        if let Some(socket) = self.sockets.get_mut(&ports) {
            socket.sent = socket.sent.wrapping_add(len);
        }
        self.send(&header, data);
    }

    /// Sends all of `data`, as credit comes.
    fn send_all(&mut self, ports: Ports, mut data: &[u8]) {
        while !data.is_empty() {
            let most = (self.sockets[&ports].credit() as usize).min(data.len()).min(MOST_DATA);
            if most == 0 {
                self.step();
            } else {
                let (now, rest) = data.split_at(most);
                self.send_data(ports, now);
                data = rest;
            }
        }
    }

    /// Waits for a packet and takes it.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let (head, length) = self.driver.wait_used(RECEIVE);
        let at = self.buffers.get(&head).copied();
        let bytes = at.map_or(Vec::new(), |at| self.driver.bytes(at, length as usize));
        if at.is_some() {
            self.driver.repost(RECEIVE, head);
            self.driver.kick(RECEIVE);
        }
        let header = Header::from_bytes(bytes.first_chunk().expect("a packet has a header"));
        assert_eq!(header.len as usize, bytes.len() - HEADER_SIZE);
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, u64::from(CID)));
        (header, bytes[HEADER_SIZE..].to_vec())
    }

    /// Waits for a packet and does what it asks for; gives its connection.
    fn step(&mut self) -> Ports {
        let (header, data) = self.receive();
        let ports = Ports { host: header.src_port, guest: header.dst_port };
        let Some(socket) = self.sockets.get_mut(&ports) else {
            self.strays.push(header);
            return ports;
        };
        (socket.host_window, socket.host_forwarded) = (header.buf_alloc, header.fwd_cnt);
        socket.received = socket.received.wrapping_add(header.len);
        socket.inbox.extend_from_slice(&data);
        let unread = socket.received.wrapping_sub(socket.told);
        assert!(unread <= socket.window, "the device sent more than the guest keeps");
        match header.op() {
            Some(Op::Response) => socket.open = true,
            Some(Op::Reset) => socket.reset = true,
            Some(Op::Shutdown) => socket.host_flags |= header.flags,
            Some(Op::CreditRequest) => socket.asked = true,
            Some(Op::Data | Op::CreditUpdate) => {}
            Some(Op::Request) | None => panic!("unexpected {header:?}"),
        }
        if unread > socket.window / 2 && socket.window == GUEST_WINDOW {
            self.send_op(ports, Op::CreditUpdate);
        }
        ports
    }

    /// Takes packets until `done` says so of the connection.
    fn until(&mut self, ports: Ports, done: impl Fn(&Socket) -> bool) {
        while !done(&self.sockets[&ports]) {
            self.step();
        }
    }

    /// Asks for a connection to `port` of the host from `guest`, keeping up to `window` bytes.
    fn request(&mut self, port: u32, guest: u32, window: u32) -> Ports {
        let ports = Ports { host: port, guest };
        self.sockets.insert(ports, Socket::new(window));
        self.send_op(ports, Op::Request);
        ports
    }

    /// Connects to `port` of the host, where `program` listens.
    fn connect(&mut self, program: &UnixListener, port: u32, guest: u32) -> (Ports, UnixStream) {
        let ports = self.request(port, guest, GUEST_WINDOW);
        self.until(ports, |socket| socket.open);
        let (stream, _) = program.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        (ports, stream)
    }

    /// Waits for the host's call and grants it.
    fn answer(&mut self) -> Ports {
        let (header, _) = self.receive();
        assert_eq!(header.op(), Some(Op::Request));
        let ports = Ports { host: header.src_port, guest: header.dst_port };
        let mut socket = Socket::new(GUEST_WINDOW);
        (socket.host_window, socket.open) = (header.buf_alloc, true);
        self.sockets.insert(ports, socket);
        self.send_op(ports, Op::Response);
        ports
    }

    /// What arrived on the connection since the last look.
    fn inbox(&mut self, ports: Ports) -> Vec<u8> {
        std::mem::take(&mut self.sockets.get_mut(&ports).unwrap().inbox)
    }
}

/// A packet from the guest.
fn packet(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        kind: STREAM,
        op: op as u16,
        ..Header::default()
    }
}

/// `length` bytes that do not repeat soon, from `seed`.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    })
    .take(length)
    .collect()
}

/// Reads exactly `length` bytes.
fn read_exact(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads to the end of the stream.
fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}
