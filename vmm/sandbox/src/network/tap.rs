//! Tap devices for virtual machines, tun(4).
//!
//! A tap lives as long as its descriptor is open somewhere. It is made by descriptor and not made persistent, so that
//! nothing has to be removed: the end of the VMM, whatever brought it, is the end of the tap.

#![allow(unsafe_code, reason = "ioctl(2) on tap devices")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What makes taps.
pub const TUN: &str = "/dev/net/tun";

/// Ethernet frames without packet information, with the header that the VMM wants; a new device or none.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;

/// Makes the tap `name`. EBUSY says that there is such an interface.
pub fn make(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open(TUN)?;
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: flags()? };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is, with a name that ends in a zero.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(file.into()) }
}

fn flags() -> io::Result<libc::__c_anonymous_ifr_ifru> {
    // The kernel reads the same 16 bits, of which IFF_TUN_EXCL is the highest.
    let bits = u16::try_from(FLAGS).map_err(io::Error::other)?;
    Ok(libc::__c_anonymous_ifr_ifru { ifru_flags: libc::c_short::from_ne_bytes(bits.to_ne_bytes()) })
}
