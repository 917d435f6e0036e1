//! The guest's end of a stream to the host. The other end is `rvm_tests::workload::serve`, which is told in front
//! what comes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use rvm_tests::workload::{self, Order, give, take};

/// The host, as seen from a guest (VMADDR_CID_HOST).
const HOST: u32 = 2;

/// Connects to the host's end of the network.
pub fn tcp(address: &str) -> io::Result<File> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(OwnedFd::from(stream).into())
}

/// The other end of streams, one after the other, until it is ended.
pub fn serve(address: &str) -> io::Result<()> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        workload::serve(OwnedFd::from(stream).into())?;
    }
    Ok(())
}

/// Connects to the host by vsock.
pub fn vsock(port: u32) -> io::Result<File> {
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(socket.into())
}

/// A byte to the host and back, `count` times.
pub fn ping(host: &mut File, count: u64) -> io::Result<()> {
    Order::Echo.send(count, host)?;
    for _ in 0..count {
        host.write_all(&[1])?;
        host.read_exact(&mut [0])?;
    }
    Ok(())
}

/// `bytes` to the host, until it has them all.
pub fn send(host: &mut File, bytes: u64) -> io::Result<()> {
    Order::Take.send(bytes, host)?;
    give(host, bytes)?;
    host.read_exact(&mut [0])
}

/// `bytes` from the host.
pub fn receive(host: &mut File, bytes: u64) -> io::Result<()> {
    Order::Give.send(bytes, host)?;
    take(host, bytes)
}
