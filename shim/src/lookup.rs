//! A listener for every port: has all connections to 127.0.0.1 of a network namespace come to one socket that listens there,
//! whichever port they are for, by a program of BPF for the lookup of sockets (kernel/bpf/net_namespace.c of Linux; since 5.9).
//! The port is then the connection's local one.
//!
//! It is asked before the namespace's own listeners are looked for, and only about connections that come over IPv4 to that
//! address. It lasts as long as its link, which is a descriptor.
#![allow(unsafe_code, reason = "bpf(2) has no wrapper, and takes addresses as numbers")]

use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Commands of bpf(2), types of what they make, and functions that programs may call: linux/bpf.h.
const MAP_CREATE: c_long = 0;
const MAP_UPDATE_ELEM: c_long = 2;
const PROG_LOAD: c_long = 5;
const LINK_CREATE: c_long = 28;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;
const FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const FUNC_SK_RELEASE: i32 = 86;
const FUNC_SK_ASSIGN: i32 = 124;

/// Where `struct bpf_sk_lookup` has what programs look at.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;

/// Has the connections to 127.0.0.1 in the network namespace come to the listener, which is in it, as long as what is given is
/// open.
pub fn lead_to(listener: &TcpListener, namespace: &File) -> io::Result<OwnedFd> {
    let map = make(MAP_CREATE, &Map { kind: MAP_TYPE_SOCKMAP, key: 4, value: 8, entries: 1, flags: 0 })?;
    let (key, value) = (0u32, u64::from(number(listener)));
    let element = Element {
        map: number(&map),
        reserved: 0,
        key: address(&raw const key),
        value: address(&raw const value),
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &element)?;
    let instructions = instructions(map.as_raw_fd());
    let program = Program {
        kind: PROG_TYPE_SK_LOOKUP,
        count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: address(instructions.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        attach: ATTACH_SK_LOOKUP,
        ..Program::default()
    };
    let program = make(PROG_LOAD, &program)?;
    let (program, target) = (number(&program), number(namespace));
    make(LINK_CREATE, &Link { program, target, attach: ATTACH_SK_LOOKUP, flags: 0 })
}

/// The program. It never refuses a connection: what it leaves alone is looked up as ever.
fn instructions(map: i32) -> [u64; 23] {
    let [r0, r1, r2, r3, r6, r7, frame] = [0, 1, 2, 3, 6, 7, 10];
    let loaded = |to, from, offset| instruction(0x61, to, from, offset, 0);
    let moved = |to, from| instruction(0xbf, to, from, 0, 0);
    let set = |to, value| instruction(0xb7, to, 0, 0, value);
    let called = |function| instruction(0x85, 0, 0, 0, function);
    // To the end, `over` instructions further on, where the register is (not) the value.
    let skip_if_not = |register, value, over| instruction(0x55, register, 0, over, value);
    let skip_if = |register, value, over| instruction(0x15, register, 0, over, value);
    // As it is in memory.
    let loopback = i32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    [
        moved(r6, r1),
        loaded(r2, r1, FAMILY),
        skip_if_not(r2, libc::AF_INET, 18),
        loaded(r2, r1, PROTOCOL),
        skip_if_not(r2, libc::IPPROTO_TCP, 16),
        loaded(r2, r1, LOCAL_IP4),
        skip_if_not(r2, loopback, 14),
        // The map's element 0: the key is on the stack.
        instruction(0x62, frame, 0, -4, 0),
        moved(r2, frame),
        instruction(0x07, r2, 0, 0, -4),
        // Of 64 bits; source 1: the number is a map's descriptor.
        instruction(0x18, r1, 1, 0, map),
        0,
        called(FUNC_MAP_LOOKUP_ELEM),
        skip_if(r0, 0, 7),
        moved(r7, r0),
        moved(r1, r6),
        moved(r2, r0),
        set(r3, 0),
        called(FUNC_SK_ASSIGN),
        moved(r1, r7),
        called(FUNC_SK_RELEASE),
        // SK_PASS.
        set(r0, 1),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// `struct bpf_insn`, in the order of the machine's bytes.
fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let [first, second, third, fourth] = value.to_ne_bytes();
    u64::from_ne_bytes([code, to | from << 4, low, high, first, second, third, fourth])
}

/// `union bpf_attr` of MAP_CREATE.
#[repr(C)]
struct Map {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// `union bpf_attr` of MAP_UPDATE_ELEM.
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Program {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

/// `union bpf_attr` of LINK_CREATE.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

fn number(descriptor: &impl AsRawFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

/// A command that makes something.
fn make<T>(command: c_long, attributes: &T) -> io::Result<OwnedFd> {
    let made = i32::try_from(call(command, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor, with close-on-exec, as it does all of bpf(2), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

fn call<T>(command: c_long, attributes: &T) -> io::Result<c_long> {
    // SAFETY: the kernel reads `attributes`, which is of this size, and what the addresses in it lead to: these are of
    // variables of the caller. It writes nothing: no command of these does, without a log.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    Ok(Errno::result(result)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn every_skip_leads_to_the_end() {
        let program = instructions(7);
        let end = program.len() - 2;
        for (at, bytes) in program.iter().map(|instruction| instruction.to_ne_bytes()).enumerate() {
            if matches!(bytes[0], 0x15 | 0x55) {
                let over = usize::try_from(i16::from_ne_bytes([bytes[2], bytes[3]])).unwrap();
                assert_eq!(at + 1 + over, end, "instruction {at}");
            }
        }
    }
}
