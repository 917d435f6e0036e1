//! Addresses as text and as the kernel takes them.

use std::fmt;
use std::net::IpAddr;

use nix::libc;

use crate::refusal::Refusal;

/// The address of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Reads the address of a card: `02:00:00:00:00:01`.
pub fn mac(text: &str) -> Result<Mac, Refusal> {
    let mut octets = [0; 6];
    let mut words = text.split(':');
    let all = octets.iter_mut().all(|octet| match words.next() {
        // A number could have a sign, too.
        Some(word) if word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u8::from_str_radix(word, 16).map(|value| *octet = value).is_ok()
        }
        _ => false,
    });
    match all && words.next().is_none() {
        true => Ok(Mac(octets)),
        false => Err(Refusal::invalid(
            format!("the MAC address {text:?}"),
            "it has to be six bytes, as 02:00:00:00:00:01",
        )),
    }
}

/// Reads an address of IPv4 or IPv6.
pub fn ip(text: &str) -> Result<IpAddr, Refusal> {
    text.parse()
        .map_err(|_| Refusal::invalid(format!("the address {text:?}"), "it is neither of IPv4 nor of IPv6"))
}

/// An address in network byte order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address family, in the eight bits that rtnetlink has for it.
pub fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).unwrap_or_default()
}

/// An address and how many of its bits the network has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// All of the address.
    pub address: IpAddr,
    /// In bits.
    pub length: u8,
}

impl Prefix {
    /// Reads `192.0.2.2/24`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = || {
            let reason = "it has to be an address and a length in bits, as 192.0.2.2/24";
            Refusal::invalid(format!("the address {text:?}"), reason)
        };
        let (address, length) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let length: u8 = length.parse().map_err(|_| refuse())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if length > bits {
            return Err(refuse());
        }
        Ok(Self { address, length })
    }

    /// The address in network byte order.
    pub fn octets(&self) -> Vec<u8> {
        octets(self.address)
    }

    /// The address family.
    pub fn family(&self) -> u8 {
        family(self.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Mac, Prefix, mac};

    #[test]
    fn addresses_of_cards_are_six_bytes() {
        assert_eq!(mac("02:00:0a:Ff:00:01").unwrap(), Mac([2, 0, 10, 255, 0, 1]));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "gg:00:00:00:00:01",
        ] {
            assert!(mac(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_is_no_longer_than_its_address() {
        assert_eq!(Prefix::parse("192.0.2.2/24").unwrap().to_string(), "192.0.2.2/24");
        assert_eq!(Prefix::parse("2001:db8::2/128").unwrap().octets().len(), 16);
        for text in ["192.0.2.2", "192.0.2.2/33", "::/129", "/24", "192.0.2/24", "1.2.3.4/-1", "1.2.3.4/24/1"]
        {
            assert!(Prefix::parse(text).is_err(), "{text:?}");
        }
    }
}
