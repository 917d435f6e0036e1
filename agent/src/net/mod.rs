//! The guest's network: interfaces, routes and neighbours as Configure has them, told to the kernel by rtnetlink(7).
//!
//! Text is read into addresses before anything is changed. Everything is set, not added: what is there already is
//! no error.

mod address;
mod netlink;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nix::libc;
use rvm_agent_proto as proto;

use crate::net::address::{Mac, Prefix, ip, mac};
use crate::net::netlink::{Message, Socket};
use crate::refusal::Refusal;

/// Longest name of an interface (IFNAMSIZ without its last byte).
const MAX_NAME: usize = 15;
const INTERFACES: &str = "/sys/class/net";
/// Flag of a route (linux/rtnetlink.h).
const RTNH_F_ONLINK: u32 = 4;

/// The network that is wanted.
#[derive(Debug)]
pub struct Network {
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
}

#[derive(Debug)]
struct Interface {
    mac: Option<Mac>,
    name: String,
    new_mac: Option<Mac>,
    mtu: u32,
    addresses: Vec<Prefix>,
    removed: Vec<Prefix>,
    up: bool,
    prefix_route: bool,
}

#[derive(Debug)]
struct Route {
    destination: Prefix,
    gateway: Option<std::net::IpAddr>,
    interface: String,
    metric: u32,
    scope: u8,
    source: Option<std::net::IpAddr>,
    on_link: bool,
}

#[derive(Debug)]
struct Neighbour {
    address: std::net::IpAddr,
    mac: Mac,
    interface: String,
}

impl Network {
    /// Reads what the host wants.
    pub fn parse(
        interfaces: &[proto::Interface],
        routes: &[proto::Route],
        neighbours: &[proto::Neighbour],
    ) -> Result<Self, Refusal> {
        Ok(Self {
            interfaces: interfaces.iter().map(Interface::parse).collect::<Result<_, _>>()?,
            routes: routes.iter().map(Route::parse).collect::<Result<_, _>>()?,
            neighbours: neighbours.iter().map(Neighbour::parse).collect::<Result<_, _>>()?,
        })
    }

    /// Tells the kernel all of it, interfaces first.
    pub fn apply(&self) -> Result<(), Refusal> {
        if self.interfaces.is_empty() && self.routes.is_empty() && self.neighbours.is_empty() {
            return Ok(());
        }
        let socket = Socket::open().map_err(Refusal::kernel(|| "open a netlink socket".to_owned()))?;
        self.interfaces.iter().try_for_each(|interface| interface.apply(&socket))?;
        self.routes.iter().try_for_each(|route| route.apply(&socket))?;
        self.neighbours.iter().try_for_each(|neighbour| neighbour.apply(&socket))
    }
}

impl Interface {
    fn parse(wanted: &proto::Interface) -> Result<Self, Refusal> {
        let optional_mac = |text: &str| match text {
            "" => Ok(None),
            text => mac(text).map(Some),
        };
        let prefixes = |all: &[String]| all.iter().map(|text| Prefix::parse(text)).collect::<Result<_, _>>();
        Ok(Self {
            mac: optional_mac(&wanted.mac)?,
            name: name(&wanted.name)?,
            new_mac: optional_mac(&wanted.new_mac)?,
            mtu: wanted.mtu,
            addresses: prefixes(&wanted.addresses)?,
            removed: prefixes(&wanted.removed_addresses)?,
            up: wanted.up,
            prefix_route: !wanted.no_prefix_route,
        })
    }

    fn apply(&self, socket: &Socket) -> Result<(), Refusal> {
        let index = match self.mac {
            Some(mac) => index_by_mac(mac)?,
            None => index_by_name(&self.name)?,
        };
        let ask = |what: String, message| socket.ask(message).map_err(Refusal::kernel(|| what));
        let taken = index_by_name(&self.name).ok();
        if taken != Some(index) {
            if let Some(other) = taken {
                rename(socket, other, &format!("card{other}"))?;
            }
            rename(socket, index, &self.name)?;
        }
        if let Some(Mac(mac)) = self.new_mac {
            let set = link_as_is(index).attribute(libc::IFLA_ADDRESS, &mac);
            ask(format!("give {} its MAC address", self.name), set)?;
        }
        if self.mtu != 0 {
            let set = link_as_is(index).attribute(libc::IFLA_MTU, &self.mtu.to_ne_bytes());
            ask(format!("give {} an MTU of {}", self.name, self.mtu), set)?;
        }
        for address in &self.removed {
            let removed = match socket.ask(old_address(index, address)) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(()),
                done => done,
            };
            removed.map_err(Refusal::kernel(|| format!("take the address {address} from {}", self.name)))?;
        }
        for address in &self.addresses {
            let set = new_address(index, address, self.prefix_route);
            ask(format!("give {} the address {address}", self.name), set)?;
        }
        match self.up {
            true => ask(format!("bring {} up", self.name), link(index, libc::IFF_UP.unsigned_abs())),
            false => Ok(()),
        }
    }
}

impl Route {
    fn parse(wanted: &proto::Route) -> Result<Self, Refusal> {
        let gateway = match wanted.gateway.as_str() {
            "" => None,
            text => Some(ip(text)?),
        };
        let destination = Prefix::parse(&wanted.destination)?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != destination.address.is_ipv4()) {
            let what = format!("the gateway {} to {destination}", wanted.gateway);
            return Err(Refusal::invalid(what, "one is of IPv4 and the other of IPv6"));
        }
        let scope = u8::try_from(wanted.scope)
            .map_err(|_| Refusal::invalid(format!("the scope {}", wanted.scope), "it is above 255"))?;
        let source = match wanted.source.as_str() {
            "" => None,
            text => Some(ip(text)?),
        };
        let interface = name(&wanted.interface)?;
        let (metric, on_link) = (wanted.metric, wanted.on_link);
        Ok(Self { destination, gateway, interface, metric, scope, source, on_link })
    }

    fn apply(&self, socket: &Socket) -> Result<(), Refusal> {
        let index = index_by_name(&self.interface)?;
        let destination = &self.destination;
        // struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type; flags.
        let table = libc::RT_TABLE_MAIN;
        let head = [
            destination.family(),
            destination.length,
            0,
            0,
            table,
            libc::RTPROT_STATIC,
            self.scope,
            libc::RTN_UNICAST,
        ];
        let flags = if self.on_link { RTNH_F_ONLINK } else { 0 };
        let mut message = Message::to_set(libc::RTM_NEWROUTE).bytes(&head).bytes(&flags.to_ne_bytes());
        if destination.length > 0 {
            message = message.attribute(libc::RTA_DST, &destination.octets());
        }
        if let Some(gateway) = self.gateway {
            message = message.attribute(libc::RTA_GATEWAY, &address::octets(gateway));
        }
        if let Some(source) = self.source {
            message = message.attribute(libc::RTA_PREFSRC, &address::octets(source));
        }
        if self.metric != 0 {
            message = message.attribute(libc::RTA_PRIORITY, &self.metric.to_ne_bytes());
        }
        let message = message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        let what = || format!("route {destination} over {}", self.interface);
        socket.ask(message).map_err(Refusal::kernel(what))
    }
}

impl Neighbour {
    fn parse(wanted: &proto::Neighbour) -> Result<Self, Refusal> {
        let (address, mac) = (ip(&wanted.address)?, mac(&wanted.mac)?);
        Ok(Self { address, mac, interface: name(&wanted.interface)? })
    }

    fn apply(&self, socket: &Socket) -> Result<(), Refusal> {
        let index = index_by_name(&self.interface)?;
        let octets = address::octets(self.address);
        // struct ndmsg: family and padding; index; state, flags, type.
        let message = Message::to_set(libc::RTM_NEWNEIGH)
            .bytes(&[address::family(self.address), 0, 0, 0])
            .bytes(&index.to_ne_bytes())
            .bytes(&libc::NUD_PERMANENT.to_ne_bytes())
            .bytes(&[0, libc::RTN_UNICAST])
            .attribute(libc::NDA_DST, &octets)
            .attribute(libc::NDA_LLADDR, &self.mac.0);
        let what = || format!("make {} a neighbour on {}", self.address, self.interface);
        socket.ask(message).map_err(Refusal::kernel(what))
    }
}

/// A change of an interface whose IFF_UP gets this value. struct ifinfomsg: family, padding, type; index; flags;
/// which of them change.
fn link(index: u32, up: u32) -> Message {
    link_message(index, up, libc::IFF_UP.unsigned_abs())
}

/// A change of an interface that is neither brought up nor down.
fn link_as_is(index: u32) -> Message {
    link_message(index, 0, 0)
}

fn link_message(index: u32, flags: u32, change: u32) -> Message {
    Message::to_change(libc::RTM_NEWLINK)
        .bytes(&[0; 4])
        .bytes(&index.to_ne_bytes())
        .bytes(&flags.to_ne_bytes())
        .bytes(&change.to_ne_bytes())
}

/// Names an interface, which loses its addresses by it: one that is up would keep its name.
fn rename(socket: &Socket, index: u32, name: &str) -> Result<(), Refusal> {
    let down = socket.ask(link(index, 0));
    down.map_err(Refusal::kernel(|| format!("bring interface {index} down")))?;
    let named = socket.ask(link(index, 0).attribute(libc::IFLA_IFNAME, name.as_bytes()));
    named.map_err(Refusal::kernel(|| format!("name interface {index} {name}")))
}

/// An address for an interface.
fn new_address(index: u32, address: &Prefix, prefix_route: bool) -> Message {
    // Nobody else in the guest's network can have it: it need not be asked for before it is used.
    let flags = libc::IFA_F_NODAD | if prefix_route { 0 } else { libc::IFA_F_NOPREFIXROUTE };
    about_address(Message::to_set(libc::RTM_NEWADDR), index, address)
        .attribute(libc::IFA_FLAGS, &flags.to_ne_bytes())
}

/// An address that an interface loses.
fn old_address(index: u32, address: &Prefix) -> Message {
    about_address(Message::to_change(libc::RTM_DELADDR), index, address)
}

/// struct ifaddrmsg: family, length, flags, scope; index.
fn about_address(message: Message, index: u32, address: &Prefix) -> Message {
    let octets = address.octets();
    message
        .bytes(&[address.family(), address.length, 0, 0])
        .bytes(&index.to_ne_bytes())
        .attribute(libc::IFA_LOCAL, &octets)
        .attribute(libc::IFA_ADDRESS, &octets)
}

/// Refuses what cannot be an interface's name, or would be another path below /sys/class/net.
fn name(text: &str) -> Result<String, Refusal> {
    let fits = (1..=MAX_NAME).contains(&text.len()) && text != "." && text != "..";
    match fits && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':') {
        true => Ok(text.to_owned()),
        false => {
            let reason = "it has to be 1 to 15 characters, without blanks, slashes and colons";
            Err(Refusal::invalid(format!("the interface name {text:?}"), reason))
        }
    }
}

fn index_by_name(name: &str) -> Result<u32, Refusal> {
    let text = fs::read_to_string(Path::new(INTERFACES).join(name).join("ifindex"));
    let index = text.ok().and_then(|text| text.trim_end().parse().ok());
    index.ok_or_else(|| Refusal::Absent(format!("interface {name}")))
}

fn index_by_mac(wanted: Mac) -> Result<u32, Refusal> {
    let found = fs::read_dir(INTERFACES).into_iter().flatten().flatten().find(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        mac(address.trim_end()).is_ok_and(|mac| mac == wanted)
    });
    match found {
        Some(entry) => index_by_name(&entry.file_name().to_string_lossy()),
        None => Err(Refusal::Absent(format!("interface with the address {wanted}"))),
    }
}
