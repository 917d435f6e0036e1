//! Links and their addresses: what of rtnetlink(7) a bridge with taps needs.

use std::io;
use std::net::Ipv4Addr;

use nix::net::if_::if_nametoindex;
use rvm_config::MacAddress;

use super::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, find, nested, text};

/// Bytes of `struct ifinfomsg`: family, padding, type, index, flags, which flags to change.
const IFINFOMSG: usize = 16;
/// `IFF_UP` as `ifinfomsg` has it.
const IFF_UP: u32 = 1;
/// `AF_INET` as `ifaddrmsg` has it.
const AF_INET: u8 = 2;

/// The number by which the kernel knows the link `name`.
pub fn index(name: &str) -> io::Result<Option<u32>> {
    match if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(nix::Error::ENODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a bridge, which is down and has no address of the network.
pub fn make_bridge(netlink: &mut Netlink, name: &str, mac: MacAddress) -> io::Result<()> {
    let message = about(libc::RTM_NEWLINK, 0, 0)
        .with(NLM_F_CREATE | NLM_F_EXCL)
        .attribute(libc::IFLA_IFNAME, &text(name))
        .attribute(libc::IFLA_ADDRESS, &mac.0)
        .append(&nested(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, b"bridge")));
    netlink.apply(message)
}

/// Gives a link an address in the network of `prefix` bits.
pub fn add_address(netlink: &mut Netlink, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    // struct ifaddrmsg: family, prefix, flags, scope, index.
    let fixed = [&[AF_INET, prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    let message = Message::new(libc::RTM_NEWADDR, &fixed)
        .with(NLM_F_CREATE | NLM_F_EXCL)
        .attribute(libc::IFA_LOCAL, &address.octets());
    netlink.apply(message)
}

/// Makes a link a port of a bridge.
pub fn attach(netlink: &mut Netlink, index: u32, bridge: u32) -> io::Result<()> {
    netlink.apply(about(libc::RTM_NEWLINK, index, 0).attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes()))
}

/// Lets packets through a link.
pub fn up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.apply(about(libc::RTM_NEWLINK, index, IFF_UP))
}

/// Removes a link, of a bridge without its ports.
pub fn delete(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.apply(about(libc::RTM_DELLINK, index, 0))
}

/// The Ethernet address of a link, if it has one.
pub fn mac(netlink: &mut Netlink, index: u32) -> io::Result<Option<MacAddress>> {
    let links = netlink.ask(about(libc::RTM_GETLINK, index, 0))?;
    let address = |link: &Vec<u8>| find(link.get(IFINFOMSG..)?, libc::IFLA_ADDRESS)?.try_into().ok();
    Ok(links.iter().find_map(address).map(MacAddress))
}

/// Whether a bridge has ports.
pub fn has_ports(netlink: &mut Netlink, bridge: u32) -> io::Result<bool> {
    let links = netlink.dump(about(libc::RTM_GETLINK, 0, 0))?;
    let master = bridge.to_ne_bytes();
    Ok(links
        .iter()
        .filter_map(|link| find(link.get(IFINFOMSG..)?, libc::IFLA_MASTER))
        .any(|found| found == master))
}

/// A message about the link `index`, which gets these flags.
fn about(kind: u16, index: u32, flags: u32) -> Message {
    let fixed = [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()];
    Message::new(kind, fixed.as_flattened())
}
