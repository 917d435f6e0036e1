//! A socket device under load: streams between a program of the guest and one of the host, both ways, and a byte
//! there and back; rvm, which ends them in Unix sockets, and beside it QEMU's microvm, which leaves them to vhost-vsock
//! in the host's kernel.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]
#![allow(unsafe_code, reason = "nix accepts connections as raw descriptors")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, listen, socket};
use rvm_tests::workload::{self, Load, Table};

const SOCKET: &str = "/tmp/bench.vsock";
const PORT: u32 = 5201;
const MIB: u32 = 8;
const PINGS: u32 = 100;
/// VMADDR_CID_ANY.
const ANY: u32 = u32::MAX;

fn main() {
    let listener = UnixListener::bind(format!("{SOCKET}_{PORT}")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = OwnedFd::from(stream.unwrap());
            thread::spawn(move || workload::serve(stream.into()));
        }
    });
    let image = workload::image().unwrap();
    println!("vsock: each figure is for one round trip, or for one MiB");
    let mut table = Table::new(loads()).unwrap();
    let prepare = format!("vsock {PORT}");
    table.add("rvm", workload::rvm(&image, &["--vsock", SOCKET]), &[&prepare]).unwrap();
    if Path::new("/dev/vhost-vsock").exists() {
        serve_vhost();
        let devices = ["-device", "vhost-vsock-device,guest-cid=3"];
        table.add("QEMU vhost", workload::qemu(&image, &devices), &[&prepare]).unwrap();
    } else {
        println!("QEMU           not measured: this host has no /dev/vhost-vsock");
    }
    table.keep("vsock.json").unwrap();
}

/// The host's end of the streams that the host's kernel carries.
fn serve_vhost() {
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, PORT)).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    thread::spawn(move || {
        loop {
            let stream = accept(listener.as_raw_fd()).unwrap();
            // SAFETY: a descriptor that was just opened and that nothing else knows.
            let stream = unsafe { OwnedFd::from_raw_fd(stream) };
            thread::spawn(move || workload::serve(stream.into()));
        }
    });
}

fn loads() -> Vec<Load> {
    let bytes = MIB << 20;
    vec![
        Load { name: "1 byte there and back", order: format!("ping {PINGS}"), operations: PINGS },
        Load { name: "1 MiB to the host", order: format!("send {bytes}"), operations: MIB },
        Load { name: "1 MiB to the guest", order: format!("receive {bytes}"), operations: MIB },
    ]
}
