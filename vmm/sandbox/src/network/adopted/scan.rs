//! What interfaces a network namespace has, and what the kernel knows of addresses and routes there, rtnetlink(7).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rvm_agent_proto as proto;
use rvm_config::MacAddress;

use super::super::netlink::{Message, Netlink, find};

/// Flags of links (linux/if.h).
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_NOARP: u32 = 1 << 7;
/// The kind of link that Ethernet is (linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;

/// Address families in the eight bits that rtnetlink has for them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address that is only known on its link: the guest has its own (linux/rtnetlink.h).
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// A copy that the kernel made for one destination.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;

/// An interface of Ethernet that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// In bytes.
    pub mtu: u32,
    /// Addresses of others are asked for there (ARP, neighbour discovery).
    pub resolves: bool,
}

/// The interfaces of this namespace but those `besides`, in the order in which they were made. What is down is not
/// ready, or one of the tunnels that some kernels put into every namespace.
pub fn interfaces(netlink: &mut Netlink, besides: &[u32]) -> io::Result<Vec<Interface>> {
    let links = netlink.dump(Message::new(libc::RTM_GETLINK, &[0; 16]))?;
    let mut interfaces: Vec<_> = links.iter().filter_map(|link| interface(link)).collect();
    interfaces.retain(|interface| !besides.contains(&interface.index));
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// Reads a `struct ifinfomsg` (family, padding, type, index, flags, changes) and its attributes.
fn interface(link: &[u8]) -> Option<Interface> {
    let kind = u16::from_ne_bytes(*link.get(2..)?.first_chunk()?);
    let flags = number(link, 8)?;
    let attributes = link.get(16..)?;
    let name = find(attributes, libc::IFLA_IFNAME)?;
    let usable = kind == ARPHRD_ETHER && flags & IFF_UP != 0 && flags & IFF_LOOPBACK == 0;
    usable.then_some(())?;
    Some(Interface {
        index: number(link, 4)?,
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        mac: MacAddress(find(attributes, libc::IFLA_ADDRESS)?.try_into().ok()?),
        mtu: number(find(attributes, libc::IFLA_MTU)?, 0)?,
        resolves: flags & IFF_NOARP == 0,
    })
}

/// Addresses and routes of interfaces, for the guest.
#[derive(Debug, Default)]
pub struct Told {
    /// By the interface's name.
    pub addresses: HashMap<String, Vec<String>>,
    /// Those that need no gateway come first: the others lead over them.
    pub routes: Vec<proto::Route>,
    /// Those that are there for good.
    pub neighbours: Vec<proto::Neighbour>,
}

impl Told {
    /// Reads what there is for these interfaces.
    pub fn read(netlink: &mut Netlink, interfaces: &[Interface]) -> io::Result<Self> {
        let name_of = |index: u32| {
            interfaces
                .iter()
                .find(|interface| interface.index == index)
                .map(|interface| interface.name.clone())
        };
        let mut told = Self::default();
        // struct ifaddrmsg, struct rtmsg, struct ndmsg: of all families.
        for message in netlink.dump(Message::new(libc::RTM_GETADDR, &[0; 8]))? {
            if let Some((interface, address)) = address(&message)
                && let Some(name) = name_of(interface)
            {
                told.addresses.entry(name).or_default().push(address);
            }
        }
        for message in netlink.dump(Message::new(libc::RTM_GETROUTE, &[0; 12]))? {
            if let Some((interface, route)) = route(&message)
                && let Some(interface) = name_of(interface)
            {
                told.routes.push(proto::Route { interface, ..route });
            }
        }
        told.routes.sort_by_key(|route| !route.gateway.is_empty());
        for message in netlink.dump(Message::new(libc::RTM_GETNEIGH, &[0; 12]))? {
            if let Some((interface, neighbour)) = neighbour(&message)
                && let Some(interface) = name_of(interface)
            {
                told.neighbours.push(proto::Neighbour { interface, ..neighbour });
            }
        }
        Ok(told)
    }
}

/// An address of an interface: `struct ifaddrmsg` (family, prefix, flags, scope, index) and its attributes.
fn address(message: &[u8]) -> Option<(u32, String)> {
    let (family, prefix, scope) = (*message.first()?, *message.get(1)?, *message.get(3)?);
    if family == AF_INET6 && scope == RT_SCOPE_LINK {
        return None;
    }
    let attributes = message.get(8..)?;
    let value = find(attributes, libc::IFA_LOCAL).or_else(|| find(attributes, libc::IFA_ADDRESS))?;
    Some((number(message, 4)?, format!("{}/{prefix}", ip(family, value)?)))
}

/// A route over an interface: `struct rtmsg` (family, lengths of destination and source, TOS, table, protocol, scope,
/// kind; flags) and its attributes. Those to local addresses and by several ways are none.
fn route(message: &[u8]) -> Option<(u32, proto::Route)> {
    let [family, prefix, _, _, table, _, scope, kind] = *message.first_chunk()?;
    let flags = number(message, 8)?;
    let of_main = table == libc::RT_TABLE_MAIN && kind == RTN_UNICAST && flags & RTM_F_CLONED == 0;
    let attributes = of_main.then_some(message.get(12..)?)?;
    let address = |kind| find(attributes, kind).and_then(|value| ip(family, value));
    let destination = match address(libc::RTA_DST) {
        Some(destination) => destination,
        None if family == AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        None if family == AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        None => return None,
    };
    // The guest makes these itself.
    if matches!(destination, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast()) {
        return None;
    }
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    let route = proto::Route {
        destination: format!("{destination}/{prefix}"),
        gateway: text(address(libc::RTA_GATEWAY)),
        interface: String::new(),
        metric: find(attributes, libc::RTA_PRIORITY).and_then(|value| number(value, 0)).unwrap_or_default(),
        scope: scope.into(),
        source: text(address(libc::RTA_PREFSRC)),
        on_link: flags & RTNH_F_ONLINK != 0,
    };
    Some((number(find(attributes, libc::RTA_OIF)?, 0)?, route))
}

/// Whom somebody made a neighbour: `struct ndmsg` (family, padding, index; state, flags, kind) and its attributes.
fn neighbour(message: &[u8]) -> Option<(u32, proto::Neighbour)> {
    let state = u16::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    let attributes = (state & libc::NUD_PERMANENT != 0).then_some(message.get(12..)?)?;
    let mac = MacAddress(find(attributes, libc::NDA_LLADDR)?.try_into().ok()?);
    let address = ip(*message.first()?, find(attributes, libc::NDA_DST)?)?;
    let neighbour =
        proto::Neighbour { address: address.to_string(), mac: mac.to_string(), interface: String::new() };
    Some((number(message, 4)?, neighbour))
}

/// The 32 bits that begin there.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An address of this family.
fn ip(family: u8, octets: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}
