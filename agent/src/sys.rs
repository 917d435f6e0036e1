//! The system calls and instructions that neither std nor nix offers in a safe form.
//!
//! All `unsafe` of the agent is here. Nothing here decides anything.
#![allow(
    unsafe_code,
    reason = "the one place for raw system calls and port I/O; each call is wrapped safely"
)]

pub mod mounting;
pub mod xattr;

use std::arch::asm;
use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::socket::{self, SockFlag, VsockAddr};
use tokio::io::unix::AsyncFd;

/// Allows (or forbids again) this process the I/O ports `first..first + count`: ioperm(2).
pub fn set_port_access(first: u16, count: u16, allowed: bool) -> io::Result<()> {
    // SAFETY: ioperm takes plain numbers and touches no memory of ours.
    let result = unsafe { libc::ioperm(first.into(), count.into(), allowed.into()) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Reads 32 bits from an I/O port.
///
/// Without [`set_port_access`] to it first, the processor raises a fault: the process dies of SIGSEGV.
pub fn port_read(port: u16) -> u32 {
    let value: u32;
    // SAFETY: `in` changes nothing but eax; no memory and no stack is touched.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes 32 bits to an I/O port, under the condition of [`port_read`].
pub fn port_write(port: u16, value: u32) {
    // SAFETY: the ports this process is allowed are the event port's, which reach no memory of ours.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
    }
}

/// The next signal of `signals` (which must be blocked), or `None` when `timeout` passes without one.
pub fn wait_for_signal(signals: &SigSet, timeout: Option<Duration>) -> Option<c_int> {
    let timeout = timeout.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        // SAFETY: the set and the time outlive the call; a null siginfo is allowed.
        let signal = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), timeout) };
        match Errno::result(signal) {
            Ok(signal) => return Some(signal),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Has the runtime wait for a descriptor that does not block.
pub fn asynchronous(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open for as long as it lives, and always the same descriptor.
    let registered = unsafe { AsyncFd::register(fd) };
    registered.map_err(|err| err.into_parts().1)
}

/// Takes a connection to a listening socket, not to be inherited by programs; also who is at its other end.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, VsockAddr)> {
    let connection = socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let connection = unsafe { OwnedFd::from_raw_fd(connection) };
    let peer = socket::getpeername(connection.as_raw_fd())?;
    Ok((connection, peer))
}

/// `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)` of `<linux/random.h>`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes bytes into the kernel's random number generator, credits them in full, and has it begin anew from them.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = u32::try_from(bytes.len()).map_err(too_long)?;
    let bits = length.checked_mul(8).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A rand_pool_info: the count of bits, the length in bytes, and the bytes.
    let mut pool = Vec::with_capacity(bytes.len() + 8);
    pool.extend_from_slice(&bits.to_ne_bytes());
    pool.extend_from_slice(&length.to_ne_bytes());
    pool.extend_from_slice(bytes);

    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads a rand_pool_info, which `pool` is, as long as it says.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) };
    Errno::result(result)?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// What [`reap`] found.
pub enum Reaped {
    /// This process ended, or was stopped, so.
    Changed(u32, ExitStatus),
    /// There are children, and no news of any.
    NoNews,
    /// There are no children.
    NoChildren,
}

/// Takes one child that is dead or newly stopped, whichever it is, without waiting.
///
/// nix's `waitpid` refuses a status that names a real-time signal, and this one must not.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is valid for the write.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    match u32::try_from(pid) {
        Ok(0) => Reaped::NoNews,
        Ok(pid) => Reaped::Changed(pid, ExitStatus::from_raw(status)),
        Err(_) => Reaped::NoChildren,
    }
}

/// Makes this process leader of a session whose controlling terminal is its standard input.
pub fn own_terminal() -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: TIOCSCTTY takes a number. It fails on what is no terminal, which is no fault.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Makes `command` start in a process group of its own, with no signal blocked, and in the foreground of the
/// terminal if this process owns one.
pub fn in_own_group(command: &mut Command, in_foreground: bool) {
    let prepare = move || {
        if in_foreground {
            // Who is not in the foreground yet is stopped for asking, unless that signal is blocked.
            SigSet::all().thread_set_mask()?;
            let group = nix::unistd::getpid().as_raw();
            // SAFETY: tcsetpgrp takes plain numbers. Without the foreground a command still runs.
            unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, group) };
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    command.process_group(0);
    // SAFETY: between fork and exec `prepare` makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// `libc::IFF_UP`, which libc gives as an `int`, in the width that an ifreq has for it.
const IFF_UP: libc::c_short = 1;

/// Brings the network interface of that name up.
pub fn set_interface_up(name: &str) -> io::Result<()> {
    // SAFETY: socket takes plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = Errno::result(socket)?;
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };

    // SAFETY: ifreq is plain old data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, so that the name ends.
    let room = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in room.zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_UP;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
