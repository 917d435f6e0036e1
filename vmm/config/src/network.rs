//! Network and socket devices of a VM.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};

/// A network card: virtio-net behind a tap device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// The host's end.
    pub tap: Tap,
    /// The card's address; without one a random, locally administered one.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    /// The largest packet, in bytes without the Ethernet header: 68 to 65535. Told to the guest; without it
    /// the guest takes 1500.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Checksum and segmentation offloads, both ways.
    #[serde(default = "yes")]
    pub offload: bool,
}

/// Which tap device a card is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Tap {
    /// A tap device of this name, which exists.
    Name(String),
    /// An open descriptor of a tap device, inherited by this process, with IFF_VNET_HDR.
    Fd(i32),
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// A socket device: connections between guest and host by port numbers, without a network.
///
/// The host's end are Unix sockets. A program of the host connects to `socket`, sends `CONNECT <port>\n` and
/// is answered `OK <its port>\n`. A connection that the guest opens to port P of CID 2 arrives at the Unix
/// socket `<socket>_<P>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context identifier, at least 3.
    #[serde(default = "first_guest_cid")]
    pub cid: u32,
    /// Where the host's listening socket is made. It must not exist.
    pub socket: PathBuf,
}

fn yes() -> bool {
    true
}

/// 0 to 2 have meanings of their own (virtio 1.2, section 5.10.4).
fn first_guest_cid() -> u32 {
    3
}

/// `NAME[,mac=A][,mtu=N][,offload=off]`, with `tap=NAME` or `fd=N` instead of the bare name.
impl FromStr for Net {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (mut name, mut fd) = (None, None);
        let (mut mac, mut mtu, mut offload) = (None, None, true);
        for (key, given) in pairs(text, "tap") {
            match key {
                "tap" => name = Some(value::<String>("tap", given)?).filter(|name| !name.is_empty()),
                "fd" => fd = Some(value("fd", given)?),
                "mac" => mac = Some(value("mac", given)?),
                "mtu" => mtu = Some(value("mtu", given)?),
                "offload" => offload = flag("offload", given)?,
                _ => {
                    let known = "tap, fd, mac, mtu, offload";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        let tap = match (name, fd) {
            (Some(name), None) => Tap::Name(name),
            (None, Some(fd)) => Tap::Fd(fd),
            (Some(_), Some(_)) => return Err(OptionError::Exclusive("tap", "fd")),
            (None, None) => return Err(OptionError::MissingKey("tap")),
        };
        Ok(Self { tap, mac, mtu, offload })
    }
}

/// `SOCKET[,cid=N]`
impl FromStr for Vsock {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut vsock = Self { cid: first_guest_cid(), socket: PathBuf::new() };
        for (key, given) in pairs(text, "socket") {
            match key {
                "socket" => vsock.socket = value("socket", given)?,
                "cid" => vsock.cid = value("cid", given)?,
                _ => {
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known: "socket, cid" });
                }
            }
        }
        match vsock.socket.as_os_str().is_empty() {
            true => Err(OptionError::MissingKey("socket")),
            false => Ok(vsock),
        }
    }
}

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "six bytes like 52:54:00:12:34:56 are expected, the first one even";
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
            .collect();
        let address = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        // An odd first byte is a multicast address, which no card has.
        address.filter(|bytes| bytes[0] & 1 == 0).map(Self).ok_or(expected)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "tap '{name}'"),
            Self::Fd(fd) => write!(f, "descriptor {fd}"),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_may_be_a_bare_tap_name() {
        let net: Net = "tap0,mac=52:54:00:00:00:01,mtu=9000,offload=off".parse().expect("it parses");
        let mac = Some(MacAddress([0x52, 0x54, 0, 0, 0, 1]));
        assert_eq!(net, Net { tap: Tap::Name("tap0".into()), mac, mtu: Some(9000), offload: false });
        assert_eq!("fd=7".parse().map(|net: Net| net.tap), Ok(Tap::Fd(7)));
    }

    #[test]
    fn bad_cards_are_refused_with_the_reason() {
        for (text, message) in [
            ("mtu=1500", "'tap=' is missing"),
            ("tap=a,fd=3", "'tap' and 'fd' exclude each other"),
            ("fd=x", "'fd' cannot be 'x': invalid digit found in string"),
            ("a,speed=9", "unknown key 'speed' (known: tap, fd, mac, mtu, offload)"),
        ] {
            assert_eq!(text.parse::<Net>().map_err(|error| error.to_string()), Err(message.to_owned()));
        }
        for mac in ["", "52:54:00:00:00", "53:54:00:00:00:01", "52:54:00:00:00:1", "52:54:00:00:00:0g"] {
            assert!(mac.parse::<MacAddress>().is_err(), "{mac}");
        }
    }

    #[test]
    fn a_socket_device_may_be_a_bare_path() {
        let vsock = "/run/vm.sock,cid=9".parse();
        assert_eq!(vsock, Ok(Vsock { cid: 9, socket: "/run/vm.sock".into() }));
    }
}
