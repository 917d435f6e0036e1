//! Published ports as the user writes them, in Docker's words: `[[IP:][HOST]:]GUEST[/tcp|/udp]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A port of the sandbox that is to be reached on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address to listen at; without one all of them, IPv4 and IPv6.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The host's port; 0: any that is free.
    pub host_port: u16,
    /// The sandbox's port.
    pub guest_port: u16,
    /// What is forwarded.
    pub protocol: Protocol,
}

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port that is published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Where the host listens: what was asked for, with the port that was free.
    pub host: SocketAddr,
    /// The sandbox's port.
    pub guest_port: u16,
    /// What is forwarded.
    pub protocol: Protocol,
}

/// The ports that one `-p` names: several, where it has ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<Publish>);

/// Why a `-p` cannot be meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Something is no port or range of ports.
    #[error("'{0}' is no port: a number from 1 to 65535 is expected, or a range like 8000-8010")]
    Port(String),
    /// Something is no address.
    #[error("'{0}' is no address to publish at: an IP address of this host is expected, IPv6 in brackets")]
    Address(String),
    /// Not a protocol that is forwarded.
    #[error("'{0}' cannot be published: tcp or udp is expected behind the '/'")]
    Protocol(String),
    /// The host's range has another length than the sandbox's.
    #[error("{host} ports of the host cannot be {guest} of the sandbox: ranges of equal length are expected")]
    Lengths {
        /// Number of the host's.
        host: usize,
        /// Number of the sandbox's.
        guest: usize,
    },
}

impl FromStr for Ports {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, protocol)) => (rest, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (host, guest) = rest.rsplit_once(':').map_or((None, rest), |(host, guest)| (Some(host), guest));
        let (address, host) = match host.map(|host| host.rsplit_once(':').ok_or(host)) {
            None => (None, None),
            Some(Err(port)) => (None, Some(port)),
            Some(Ok((address, port))) => (Some(parse_address(address)?), Some(port)),
        };
        let guest = parse_range(guest)?;
        let host = match host {
            None | Some("") => None,
            Some(host) => Some(parse_range(host)?),
        };
        if let Some(host) = host.as_ref().filter(|host| host.len() != guest.len()) {
            return Err(PublishError::Lengths { host: host.len(), guest: guest.len() });
        }
        let first = *guest.start();
        let published = guest.map(|guest_port| Publish {
            host_ip: address,
            // Lies in the range, because both have the same length.
            host_port: host.as_ref().map_or(0, |host| host.start() + (guest_port - first)),
            guest_port,
            protocol,
        });
        Ok(Self(published.collect()))
    }
}

impl FromStr for Protocol {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(PublishError::Protocol(other.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    let unknown = || PublishError::Address(text.to_owned());
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| unknown()),
        None => text.parse().map(IpAddr::V4).map_err(|_| unknown()),
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, PublishError> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0 && digits(text));
    let range = match text.split_once('-') {
        Some((first, last)) => port(first).zip(port(last)),
        None => port(text).map(|port| (port, port)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(first..=last),
        _ => Err(PublishError::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Publish {
        match text.parse::<Ports>().map(|ports| ports.0).as_deref() {
            Ok([one]) => *one,
            other => panic!("'{text}' is not one port: {other:?}"),
        }
    }

    fn tcp(host_ip: Option<&str>, host_port: u16, guest_port: u16) -> Publish {
        let host_ip = host_ip.map(|ip| ip.parse().expect("an address"));
        Publish { host_ip, host_port, guest_port, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_port_is_written_as_for_docker() {
        assert_eq!(one("80"), tcp(None, 0, 80));
        assert_eq!(one("8080:80"), tcp(None, 8080, 80));
        assert_eq!(one("127.0.0.1:8080:80"), tcp(Some("127.0.0.1"), 8080, 80));
        assert_eq!(one("127.0.0.1::80"), tcp(Some("127.0.0.1"), 0, 80));
        assert_eq!(one("[::1]:8080:80"), tcp(Some("::1"), 8080, 80));
        assert_eq!(one("8080:80/tcp"), tcp(None, 8080, 80));
        assert_eq!(one("53:53/udp"), Publish { protocol: Protocol::Udp, ..tcp(None, 53, 53) });
    }

    #[test]
    fn ranges_are_as_many_ports() {
        let expected = Ok(Ports(vec![tcp(None, 8000, 80), tcp(None, 8001, 81), tcp(None, 8002, 82)]));
        assert_eq!("8000-8002:80-82".parse(), expected);
        assert_eq!("65534-65535".parse(), Ok(Ports(vec![tcp(None, 0, 65534), tcp(None, 0, 65535)])));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_what_is_wrong() {
        for port in ["", "0", "65536", "http", "-", "80-", "82-80", "8080:", "+80"] {
            assert!(matches!(port.parse::<Ports>(), Err(PublishError::Port(_))), "'{port}'");
        }
        for address in ["host:1:2", "::1:1:2", "[127.0.0.1]:1:2", "[::1:1:2", ":1:2"] {
            assert!(matches!(address.parse::<Ports>(), Err(PublishError::Address(_))), "'{address}'");
        }
        assert_eq!("80/sctp".parse::<Ports>(), Err(PublishError::Protocol("sctp".into())));
        assert_eq!("80/".parse::<Ports>(), Err(PublishError::Protocol(String::new())));
        assert_eq!("1-2:3".parse::<Ports>(), Err(PublishError::Lengths { host: 2, guest: 1 }));
    }
}
