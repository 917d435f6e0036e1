//! The bridge on which the sandboxes of a host are, and their places on it.
//!
//! ```text
//!   sandbox -- VMM -- tap rvm0-5 --+
//!                                  +-- bridge rvm0, 172.30.77.1/24 -- routing, NAT -- the host's network
//!   sandbox -- VMM -- tap rvm0-9 --+
//! ```
//!
//! The taps are the register of who has which address: a tap's name has the number of the address, the kernel gives a
//! name once, and takes it back when the tap's last descriptor is closed. So an address is free exactly when no VMM
//! can be using it, whoever was killed in which order, and no file has to say so.
//!
//! The bridge and the firewall's tables come with the first sandbox and go with the last. Both happen under a lock of
//! the host (`place.rs`). Who cannot have it can collide, and loses: see [`Bridge::plug`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::ifaddrs::getifaddrs;

use super::link;
use super::netlink::Netlink;
use super::subnet::{self, Subnet};
use super::{NetworkError, firewall, tap};

/// The bridge's name. Rules of other firewalls can name it.
pub const NAME: &str = "rvm0";

/// Name of the tap of the sandbox with this number.
pub fn tap_name(number: u32) -> String {
    format!("{NAME}-{number}")
}

/// The bridge, up and with its address.
pub struct Bridge {
    index: u32,
    /// What the sandboxes' addresses are in.
    pub subnet: Subnet,
}

impl Bridge {
    /// Finds the bridge, or makes it. The flag says that it was made now.
    pub fn find_or_make() -> Result<(Self, bool), NetworkError> {
        match Self::find()? {
            Some(bridge) => Ok((bridge, false)),
            None => Self::make().map(|bridge| (bridge, true)),
        }
    }

    fn find() -> Result<Option<Self>, NetworkError> {
        let failed = |source| failed("look for", NAME, source);
        let Some(index) = own_bridge()? else { return Ok(None) };
        let mut interfaces = getifaddrs().map_err(|errno| failed(errno.into()))?;
        let subnet = interfaces.find_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            let mask = interface.netmask?.as_sockaddr_in()?.ip();
            (interface.interface_name == NAME).then(|| Subnet::containing(address, mask))
        });
        match subnet {
            Some(subnet) if subnet.is_of_usual_size() => Ok(Some(Self { index, subnet })),
            Some(_) => Err(NetworkError::ForeignBridge),
            // Whoever was making it was killed.
            None => {
                let mut netlink = Netlink::route().map_err(failed)?;
                link::delete(&mut netlink, index).map_err(|source| self::failed("remove", NAME, source))?;
                Ok(None)
            }
        }
    }

    fn make() -> Result<Self, NetworkError> {
        let subnet = subnet::choose()?;
        let failed = |source| failed("make", NAME, source);
        let mut netlink = Netlink::route().map_err(failed)?;
        // With an address of its own: a bridge that has none takes that of a port, another one with every sandbox.
        link::make_bridge(&mut netlink, NAME, subnet::mac(subnet.gateway())).map_err(failed)?;
        let index =
            link::index(NAME).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        without_ipv6(NAME).map_err(failed)?;
        link::add_address(&mut netlink, index, subnet.gateway(), subnet.prefix()).map_err(failed)?;
        link::up(&mut netlink, index).map_err(failed)?;
        Ok(Self { index, subnet })
    }

    /// Makes a tap for the sandbox `vm_id`, which has the address, and connects it. Fails with ENODEV if the last
    /// sandbox of another runtime directory took the bridge away meanwhile.
    pub fn plug(&self, vm_id: &str) -> Result<(OwnedFd, Ipv4Addr), NetworkError> {
        let (tap, number) = self.make_tap(vm_id)?;
        let name = tap_name(number);
        let failed = |source| failed("connect", &name, source);
        without_ipv6(&name).map_err(failed)?;
        let index =
            link::index(&name).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let mut netlink = Netlink::route().map_err(failed)?;
        link::attach(&mut netlink, index, self.index).map_err(failed)?;
        link::up(&mut netlink, index).map_err(failed)?;
        Ok((tap, self.subnet.host(number)))
    }

    /// A tap with a number that nobody has. Where the search begins depends on the sandbox's name: the same sandbox
    /// mostly has the same address again, and one that was just given back mostly rests.
    fn make_tap(&self, vm_id: &str) -> Result<(OwnedFd, u32), NetworkError> {
        let hosts = self.subnet.hosts();
        let count = hosts.end - hosts.start;
        let mut hasher = DefaultHasher::new();
        vm_id.hash(&mut hasher);
        let [.., a, b, c, d] = hasher.finish().to_le_bytes();
        let first = u32::from_le_bytes([a, b, c, d]) % count;
        for step in 0..count {
            let number = hosts.start + (first + step) % count;
            match tap::make(&tap_name(number)) {
                Ok(tap) => return Ok((tap, number)),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(source) => return Err(failed("make", &tap_name(number), source)),
            }
        }
        Err(NetworkError::Full(self.subnet))
    }
}

/// The link with the bridge's name, which has an address that rvm gave it, or is none of rvm's business.
fn own_bridge() -> Result<Option<u32>, NetworkError> {
    let failed = |source| failed("look for", NAME, source);
    let Some(index) = link::index(NAME).map_err(failed)? else {
        return Ok(None);
    };
    let mut netlink = Netlink::route().map_err(failed)?;
    match link::mac(&mut netlink, index) {
        Ok(Some(mac)) if subnet::is_own(mac) => Ok(Some(index)),
        Ok(_) => Err(NetworkError::ForeignBridge),
        // It went between the two questions.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the bridge and the tables if no sandbox is on the bridge.
pub fn remove_idle() -> Result<(), NetworkError> {
    let failed = |source| failed("remove", NAME, source);
    let index = match own_bridge() {
        Ok(Some(index)) => index,
        Ok(None) | Err(NetworkError::ForeignBridge) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut netlink = Netlink::route().map_err(failed)?;
    if link::has_ports(&mut netlink, index).map_err(failed)? {
        return Ok(());
    }
    match link::delete(&mut netlink, index) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => return Err(failed(error)),
        _ => {}
    }
    firewall::unload().map_err(|source| NetworkError::Io {
        attempt: "remove the nftables rules of rvm's network".into(),
        source,
    })
}

/// Lets the host route packets between its networks, which it does already where containers are.
pub fn enable_forwarding() -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    let failed = |source| NetworkError::Io { attempt: format!("set {} to 1", path.display()), source };
    match std::fs::read_to_string(path).map_err(failed)?.trim() {
        "0" => std::fs::write(path, "1").map_err(failed),
        _ => Ok(()),
    }
}

/// Keeps the host from having an address of its own on the link, which no rule here would guard.
fn without_ipv6(link: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn failed(what: &str, link: &str, source: io::Error) -> NetworkError {
    let kind = if link == NAME { "bridge" } else { "tap" };
    NetworkError::Io { attempt: format!("{what} {kind} {link}"), source }
}
