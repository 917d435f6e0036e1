//! Network and socket devices of a VM.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};

/// A network card: virtio-net with its other end on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Net {
    /// The host's end.
    pub host: NetHost,
    /// The card's address; without one a random, locally administered one.
    pub mac: Option<MacAddress>,
    /// The largest packet, in bytes without the Ethernet header: 68 to 65535. Told to the guest; without it
    /// the guest takes 1500.
    pub mtu: Option<u16>,
    /// Checksum and segmentation offloads, both ways. A socket has none.
    pub offload: bool,
}

/// What a card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetHost {
    /// A tap device.
    Tap(Tap),
    /// A program that takes the guest's frames as a stream, such as passt.
    Socket(Socket),
}

/// A connected Unix stream socket on which every Ethernet frame stands behind its length, a big-endian number of 32
/// bits: what QEMU calls a stream network backend, and passt speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// An open descriptor, inherited by this process.
    pub fd: i32,
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

/// A card as it is written in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tap: Option<Tap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket: Option<Socket>,
    #[serde(default)]
    mac: Option<MacAddress>,
    #[serde(default)]
    mtu: Option<u16>,
    #[serde(default = "yes")]
    offload: bool,
}

/// A card with no end on the host, or with two.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network card has exactly one of `tap` and `socket`")]
struct OneHost;

impl TryFrom<Written> for Net {
    type Error = OneHost;

    fn try_from(written: Written) -> Result<Self, OneHost> {
        let Written { tap, socket, mac, mtu, offload } = written;
        let host = match (tap, socket) {
            (Some(tap), None) => NetHost::Tap(tap),
            (None, Some(socket)) => NetHost::Socket(socket),
            _ => return Err(OneHost),
        };
        Ok(Self { host, mac, mtu, offload })
    }
}

impl From<Net> for Written {
    fn from(net: Net) -> Self {
        let Net { host, mac, mtu, offload } = net;
        let (tap, socket) = match host {
            NetHost::Tap(tap) => (Some(tap), None),
            NetHost::Socket(socket) => (None, Some(socket)),
        };
        Self { tap, socket, mac, mtu, offload }
    }
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

/// `NAME[,mac=A][,mtu=N][,offload=off]`, with `tap=NAME`, `fd=N` or `socket-fd=N` instead of the bare name.
impl FromStr for Net {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut hosts = Vec::new();
        let (mut mac, mut mtu, mut offload) = (None, None, true);
        for (key, given) in pairs(text, "tap") {
            match key {
                // An empty name is none.
                "tap" if given.is_none_or(str::is_empty) => {}
                "tap" => hosts.push(("tap", NetHost::Tap(Tap::Name(value("tap", given)?)))),
                "fd" => hosts.push(("fd", NetHost::Tap(Tap::Fd(value("fd", given)?)))),
                "socket-fd" => {
                    hosts.push(("socket-fd", NetHost::Socket(Socket { fd: value("socket-fd", given)? })));
                }
                "mac" => mac = Some(value("mac", given)?),
                "mtu" => mtu = Some(value("mtu", given)?),
                "offload" => offload = flag("offload", given)?,
                _ => {
                    let known = "tap, fd, socket-fd, mac, mtu, offload";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        let mut hosts = hosts.into_iter();
        match (hosts.next(), hosts.next()) {
            (Some((one, _)), Some((other, _))) => Err(OptionError::Exclusive(one, other)),
            (Some((_, host)), None) => Ok(Self { host, mac, mtu, offload }),
            (None, _) => Err(OptionError::MissingKey("tap")),
        }
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

impl fmt::Display for NetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(tap) => tap.fmt(f),
            Self::Socket(Socket { fd }) => write!(f, "descriptor {fd}"),
        }
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
        assert_eq!(
            net,
            Net { host: NetHost::Tap(Tap::Name("tap0".into())), mac, mtu: Some(9000), offload: false }
        );
        let host = |text: &str| text.parse().map(|net: Net| net.host);
        assert_eq!(host("fd=7"), Ok(NetHost::Tap(Tap::Fd(7))));
        assert_eq!(host("socket-fd=8"), Ok(NetHost::Socket(Socket { fd: 8 })));
    }

    #[test]
    fn a_card_in_json_has_one_end_on_the_host() {
        for text in [
            r#"{"tap":{"name":"t"},"mac":null,"mtu":null,"offload":true}"#,
            r#"{"socket":{"fd":5},"mac":null,"mtu":1500,"offload":false}"#,
        ] {
            let net: Net = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&net).expect("it is written"), text);
        }
        for text in ["{}", r#"{"tap":{"fd":3},"socket":{"fd":4}}"#] {
            let error = serde_json::from_str::<Net>(text).expect_err(text).to_string();
            assert!(error.starts_with("a network card has exactly one of"), "{error}");
        }
    }

    #[test]
    fn bad_cards_are_refused_with_the_reason() {
        for (text, message) in [
            ("mtu=1500", "'tap=' is missing"),
            ("tap=a,fd=3", "'tap' and 'fd' exclude each other"),
            ("fd=3,socket-fd=4", "'fd' and 'socket-fd' exclude each other"),
            ("fd=x", "'fd' cannot be 'x': invalid digit found in string"),
            ("a,speed=9", "unknown key 'speed' (known: tap, fd, socket-fd, mac, mtu, offload)"),
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
