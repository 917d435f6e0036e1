//! A network card under load: TCP between a program of the guest and one of the host over a tap, both ways, and a
//! byte there and back; rvm, and QEMU's microvm beside it with and without the host kernel's vhost.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread;

use rvm_tests::guest::Tap;
use rvm_tests::workload::{self, Load, Table};

const TAP: &str = "bench0";
const MIB: u32 = 8;
const PINGS: u32 = 100;

fn main() {
    let _tap = Tap::new(TAP, "192.0.2.1/24").unwrap();
    let listener = TcpListener::bind("192.0.2.1:5201").unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            // A guest that is ended by force leaves its stream open, or resets it.
            thread::spawn(move || workload::serve(OwnedFd::from(stream).into()));
        }
    });
    let image = workload::image().unwrap();
    println!("net: each figure is for one round trip, or for one MiB");
    let mut table = Table::new(loads()).unwrap();
    let prepare = ["address 192.0.2.2/24", "tcp 192.0.2.1:5201"];
    table.add("rvm", workload::rvm(&image, &["--net", TAP]), &prepare).unwrap();
    for (name, vhost) in [("QEMU", "off"), ("QEMU vhost", "on")] {
        let netdev = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost={vhost}");
        let devices = ["-netdev", &netdev, "-device", "virtio-net-device,netdev=net"];
        table.add(name, workload::qemu(&image, &devices), &prepare).unwrap();
    }
    table.keep("net.json").unwrap();
}

fn loads() -> Vec<Load> {
    let bytes = MIB << 20;
    vec![
        Load { name: "1 byte there and back", order: format!("ping {PINGS}"), operations: PINGS },
        Load { name: "1 MiB to the host", order: format!("send {bytes}"), operations: MIB },
        Load { name: "1 MiB to the guest", order: format!("receive {bytes}"), operations: MIB },
    ]
}
