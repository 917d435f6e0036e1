//! The load that benchmarks put on a guest's devices: a program for the guest, static, that does what lines on the
//! console order and says when it has.
//!
//! It measures nothing. The host has the only clock and all counters (`rvm_tests::workload`), so a guest whose clock
//! is wrong cannot flatter its VMM.
//!
//! | order | does |
//! |---|---|
//! | `nothing ...` | nothing: what the order itself costs |
//! | `disk read\|write random\|sequential SIZE DEPTH COUNT` | requests of SIZE bytes to /dev/vda past the page cache |
//! | `file PATH SIZE COUNT` | reads SIZE bytes at COUNT random places of a file, through the page cache |
//! | `address CIDR` | gives the network card an address |
//! | `tcp ADDRESS`, `vsock PORT` | connects to the host |
//! | `ping COUNT` | a byte to the host and back, so many times |
//! | `send BYTES`, `receive BYTES` | a stream to the host, or from it |
//!
//! With the arguments `serve ADDRESS` it is the other end of such streams, for a load between two containers.
//!
//! Any error ends it, with the reason on the console.

mod disk;
mod stream;

use std::fs::File;
use std::io::{self, BufRead};
use std::path::Path;
use std::process::Command;

use rvm_tests::workload::{DONE, READY};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, address] = arguments.as_slice()
        && serve == "serve"
    {
        return stream::serve(address);
    }
    println!("{READY}");
    let mut host = None;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        obey(&words, &mut host)?;
        println!("{DONE}");
    }
    Ok(())
}

fn obey(words: &[&str], host: &mut Option<File>) -> io::Result<()> {
    match words {
        ["nothing", ..] => Ok(()),
        ["disk", direction, order, size, depth, count] => disk::run(&disk::Load {
            write: *direction == "write",
            random: *order == "random",
            size: number(size)?,
            depth: number(depth)?,
            count: number(count)?,
        }),
        ["file", path, size, count] => disk::read_file(Path::new(path), number(size)?, number(count)?),
        ["address", address] => {
            ip(&["address", "add", address, "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])
        }
        ["tcp", address] => {
            *host = Some(stream::tcp(address)?);
            Ok(())
        }
        ["vsock", port] => {
            *host = Some(stream::vsock(number(port)?)?);
            Ok(())
        }
        ["ping", count] => stream::ping(connected(host)?, number(count)?),
        ["send", bytes] => stream::send(connected(host)?, number(bytes)?),
        ["receive", bytes] => stream::receive(connected(host)?, number(bytes)?),
        _ => Err(io::Error::other(format!("no such order: {words:?}"))),
    }
}

fn connected(host: &mut Option<File>) -> io::Result<&mut File> {
    host.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
}

fn number<N: std::str::FromStr>(word: &str) -> io::Result<N> {
    word.parse().map_err(|_| io::Error::other(format!("not a number: {word}")))
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    match Command::new("/bin/busybox").arg("ip").args(arguments).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("ip {} failed", arguments.join(" ")))),
    }
}
