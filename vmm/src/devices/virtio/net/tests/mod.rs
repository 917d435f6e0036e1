//! Tests of the network card, from its driver's side of the rings.
//!
//! `stand_in` has a packet socket in the tap's place: no privilege needed, and the far end is in the test's hand.
//! `stream` has a stream socket, as passt does. `on_tap` has real taps, in a network namespace of its own, and says
//! so where that is not permitted.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

mod on_tap;
mod stand_in;
mod stream;

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::offload::HEADER_SIZE;
use crate::devices::virtio::testing::{Driver, Part};

pub use super::link::{RECEIVE, TRANSMIT};

/// A header that asks for nothing.
pub const PLAIN: [u8; HEADER_SIZE] = [0; HEADER_SIZE];

/// Runs `test` in a network namespace of its own, with `tap0` in it; where that is not permitted it says so.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return cannot_run(&format!("no network namespace for the test: {error}"));
        }
        match ip("tuntap add tap0 mode tap") {
            Ok(()) => test(),
            Err(reason) => cannot_run(&reason),
        }
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs ip(8) in the namespace of this thread.
pub fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip(8) is missing (package iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The line by which the test runner counts a test that could not run.
pub fn cannot_run(reason: &str) {
    println!("\nrvm-tests: cannot run: {}", reason.replace('\n', " "));
}

/// Sends `frame` behind `header` in one descriptor and waits until it is used.
pub fn send(driver: &mut Driver, header: [u8; HEADER_SIZE], frame: &[u8]) {
    let packet = [&header, frame].concat();
    let address = driver.place(&packet);
    let length = u32::try_from(packet.len()).unwrap();
    assert_eq!(driver.request(TRANSMIT, &[Part::Readable(address, length)]), 0);
}

/// Posts a buffer of `length` bytes for a packet, without a kick; gives its address.
pub fn post(driver: &mut Driver, length: u32) -> u64 {
    let address = driver.allocate(length as usize);
    driver.submit(RECEIVE, &[Part::Writable(address, length)]);
    address
}

/// Waits for a packet in the buffers at `addresses`, as many as it fills; gives header and frame, and how many
/// buffers it took.
pub fn receive(driver: &mut Driver, addresses: &[u64]) -> (Vec<u8>, usize) {
    let mut packet = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        // What belongs together comes together.
        let (_, written) = if index == 0 {
            driver.wait_used(RECEIVE)
        } else {
            driver.used(RECEIVE).expect("the next part of the packet is there with the first")
        };
        packet.extend(driver.bytes(*address, written as usize));
        if index + 1 == usize::from(u16::from_le_bytes([packet[10], packet[11]])) {
            return (packet, index + 1);
        }
    }
    panic!("the packet fills more buffers than expected");
}

/// `length` bytes that differ from place to place and from `seed` to `seed`.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| seed.wrapping_add(u8::try_from(index % 251).unwrap())).collect()
}
