//! The host's end of a network card: a tap device (tun(4)), whose packets carry a `virtio_net_hdr_v1` each.

#![allow(unsafe_code, reason = "ioctl(2) and fcntl(2) on tap devices")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rvm_config::Tap as TapConfig;

use super::offload::{HEADER_SIZE, TAP_BASIC, TAP_USO};
use crate::inherited;

const TUN: &str = "/dev/net/tun";

/// Ethernet frames, no packet information, a virtio header: what a card needs of its tap.
const WANTED: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a network card cannot be connected to its tap: what was attempted, on what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host offers no tap devices.
    #[error("cannot open {TUN} for tap '{tap}': load the tun module with `modprobe tun`")]
    NoTun {
        /// The tap asked for.
        tap: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The user may not have the tap.
    #[error(
        "no permission to use tap '{tap}': run as root, or make the tap for this user with \
         `ip tuntap add {tap} mode tap user $USER` and give access to {TUN}"
    )]
    Forbidden {
        /// The tap asked for.
        tap: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// No interface of this name.
    #[error(
        "there is no tap '{0}' for the network card: make it with `ip tuntap add {0} mode tap && ip link set {0} up`"
    )]
    Missing(String),
    /// Something else is connected to the tap.
    #[error(
        "tap '{0}' is taken: another program, perhaps another VM, is connected to it; end that or use another tap"
    )]
    Taken(String),
    /// The interface is something else.
    #[error(
        "'{0}' is no tap for a network card: it is another kind of interface, or was made with multi_queue; \
         make one with `ip tuntap add NAME mode tap && ip link set NAME up`"
    )]
    NotATap(String),
    /// The descriptor is no tap.
    #[error("descriptor {fd} is not an open tap device: pass one on which TUNSETIFF was done")]
    NotATapDescriptor {
        /// The descriptor given.
        fd: RawFd,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The descriptor's tap speaks another format.
    #[error(
        "the tap of descriptor {0} has the wrong packet format: open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    WrongFormat(RawFd),
    /// The descriptor is no socket.
    #[error("descriptor {fd} is not an open socket: pass one end of a connection to rvm")]
    NotASocket {
        /// The descriptor given.
        fd: RawFd,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The descriptor is another kind of socket.
    #[error(
        "the socket of descriptor {0} is no connected Unix stream socket: connect it to passt or the like first"
    )]
    NotAStream(RawFd),
    /// Anything else the host refuses.
    #[error("cannot {attempt} {tap}")]
    Refused {
        /// What was attempted, as "set the header size of".
        attempt: &'static str,
        /// The tap.
        tap: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// No random address could be made.
    #[error("cannot make a random address for the network card")]
    Random(#[source] io::Error),
}

/// [`HEADER_SIZE`] as TUNSETVNETHDRSZ reads it.
const TAP_HEADER_SIZE: libc::c_int = 12;
const _: () = assert!(HEADER_SIZE == 12);

/// An open tap device.
pub struct Tap {
    file: OwnedFd,
    /// The `TUN_F_*` it can do.
    offloads: u32,
    /// A socket in its place, which has no offloads to set.
    #[cfg(any(test, feature = "testing"))]
    stand_in: bool,
}

impl Tap {
    /// Opens the tap that `config` names, or takes the descriptor it gives, and sets it up.
    pub fn open(config: &TapConfig) -> Result<Self, NetError> {
        let file = match config {
            TapConfig::Name(name) => open_by_name(name)?,
            TapConfig::Fd(fd) => duplicate(*fd)?,
        };
        let refused = |attempt, source| NetError::Refused { attempt, tap: config.to_string(), source };
        set(&file, libc::TUNSETVNETHDRSZ, &TAP_HEADER_SIZE)
            .map_err(|source| refused("set the header size of", source))?;
        // Kernels before 6.2 refuse what they do not know. Nothing is left on: the driver decides.
        let known = [TAP_BASIC | TAP_USO, TAP_BASIC];
        let offloads = known.into_iter().find(|flags| set_offloads(&file, *flags).is_ok()).unwrap_or(0);
        set_offloads(&file, 0).map_err(|source| refused("set the offloads of", source))?;
        Ok(Self {
            file,
            offloads,
            #[cfg(any(test, feature = "testing"))]
            stand_in: false,
        })
    }

    /// A packet socket (SOCK_DGRAM or SOCK_SEQPACKET, non-blocking) in the place of a tap.
    #[cfg(any(test, feature = "testing"))]
    pub fn stand_in(socket: OwnedFd) -> Self {
        Self { file: socket, offloads: TAP_BASIC | TAP_USO, stand_in: true }
    }

    /// The `TUN_F_*` that [`Self::set_offloads`] takes.
    pub fn offloads(&self) -> u32 {
        self.offloads
    }

    /// What the packets read from here on may leave to their reader, as `TUN_F_*`.
    pub fn set_offloads(&self, flags: u32) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if self.stand_in {
            return Ok(());
        }
        set_offloads(&self.file, flags)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Connects to the tap `name`, which exists: TUNSETIFF alone would make a new one for a wrong name.
fn open_by_name(name: &str) -> Result<OwnedFd, NetError> {
    let tap = || name.to_owned();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
    let file: File = file.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => NetError::Forbidden { tap: tap(), source },
        _ => NetError::NoTun { tap: tap(), source },
    })?;
    let request = interface_request(name).ok_or_else(|| NetError::Missing(tap()))?;
    set(&file, libc::TUNSETIFF, &request).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NetError::Forbidden { tap: tap(), source },
        Some(libc::EBUSY) => NetError::Taken(tap()),
        Some(libc::EINVAL) => NetError::NotATap(tap()),
        _ => NetError::Refused { attempt: "connect to", tap: format!("tap '{name}'"), source },
    })?;
    Ok(file.into())
}

/// A TUNSETIFF request for the interface `name`; `None` when there is no such interface.
fn interface_request(name: &str) -> Option<libc::ifreq> {
    let c_name = CString::new(name).ok()?;
    let bytes = c_name.as_bytes_with_nul();
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    if bytes.len() > ifr_name.len() {
        return None;
    }
    // SAFETY: the name is a C string that lives during the call.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    let ifru_flags = libc::c_short::try_from(WANTED).ok()?;
    (index != 0).then_some(libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } })
}

/// A descriptor of our own for the inherited tap `fd`, non-blocking.
fn duplicate(fd: RawFd) -> Result<OwnedFd, NetError> {
    let failed = |source| NetError::NotATapDescriptor { fd, source };
    let file = inherited::duplicate(fd).map_err(failed)?;
    // SAFETY: all zero is a valid value of a C struct of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes an ifreq, for which `request` has room.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    checked(answer).map_err(failed)?;
    // SAFETY: a successful TUNGETIFF fills in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if libc::c_int::from(flags) & (WANTED | libc::IFF_TUN) != WANTED {
        return Err(NetError::WrongFormat(fd));
    }
    // SAFETY: F_GETFL touches no memory.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    checked(status).map_err(failed)?;
    // SAFETY: F_SETFL touches no memory.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, status | libc::O_NONBLOCK) };
    checked(answer).map_err(failed)?;
    Ok(file)
}

/// TUNSETOFFLOAD takes its flags by value.
fn set_offloads(file: &OwnedFd, flags: u32) -> io::Result<()> {
    // SAFETY: the argument is a number; the call touches no memory of ours.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
}

/// An ioctl of the TUNSET family that reads what `argument` is.
fn set<T>(file: &impl AsRawFd, request: libc::Ioctl, argument: &T) -> io::Result<()> {
    // SAFETY: callers pass the type that the request reads; TUNSETIFF also writes the name back, the same it
    // was given, so that no byte changes.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_ref(argument)) })
}

fn checked(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use crate::devices::virtio::net::tests::in_namespace;
    use nix::unistd::{Uid, setfsuid};

    fn open(tap: &str) -> Result<Tap, NetError> {
        match tap.parse::<rvm_config::Net>().unwrap().host {
            rvm_config::NetHost::Tap(tap) => Tap::open(&tap),
            rvm_config::NetHost::Socket(_) => unreachable!("a tap is named"),
        }
    }

    fn refusal(tap: &str) -> NetError {
        open(tap).err().expect("the tap is refused")
    }

    /// A descriptor connected to `tap0` in the format `flags`.
    fn inherited(flags: libc::c_int) -> OwnedFd {
        let file = File::options().read(true).write(true).open(TUN).unwrap();
        let mut request = interface_request("tap0").unwrap();
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap();
        set(&file, libc::TUNSETIFF, &request).unwrap();
        file.into()
    }

    #[test]
    fn a_tap_that_does_not_exist_is_not_made() {
        in_namespace(|| {
            for _ in 0..2 {
                let error = refusal("nosuchtap");
                assert!(matches!(&error, NetError::Missing(name) if name == "nosuchtap"));
                assert!(error.to_string().contains("ip tuntap add nosuchtap mode tap"), "{error}");
            }
        });
    }

    #[test]
    fn a_tap_has_one_user_until_that_one_is_gone() {
        in_namespace(|| {
            let first = open("tap0").unwrap();
            assert!(matches!(refusal("tap0"), NetError::Taken(_)));
            drop(first);
            open("tap0").unwrap();
        });
    }

    #[test]
    fn another_kind_of_interface_is_no_tap() {
        in_namespace(|| {
            assert!(matches!(refusal("lo"), NetError::NotATap(_)));
            assert!(open("tap0").is_ok());
        });
    }

    #[test]
    fn a_user_without_access_is_told_what_would_give_it() {
        in_namespace(|| {
            // Of this thread only, for file accesses only.
            setfsuid(Uid::from_raw(65534));
            assert!(matches!(refusal("tap0"), NetError::Forbidden { .. }));
        });
    }

    #[test]
    fn an_inherited_descriptor_is_a_tap_with_the_header_or_refused() {
        in_namespace(|| {
            let plain = inherited(libc::IFF_TAP | libc::IFF_NO_PI);
            let error = refusal(&format!("fd={}", plain.as_raw_fd()));
            assert!(matches!(error, NetError::WrongFormat(_)), "{error}");
            drop(plain);

            let tap = inherited(WANTED);
            let opened = open(&format!("fd={}", tap.as_raw_fd())).unwrap();
            assert_ne!(opened.offloads() & TAP_BASIC, 0);
        });
        for fd in [File::open("/dev/null").unwrap().as_raw_fd(), 1 << 20] {
            assert!(matches!(refusal(&format!("fd={fd}")), NetError::NotATapDescriptor { .. }));
        }
    }
}
