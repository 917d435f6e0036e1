//! Address ranges: which one the sandboxes of a host get, and who has which address in it.
//!
//! Host number 1 is the bridge's; sandboxes have the numbers from 2 on. A sandbox's Ethernet address and the name of
//! its tap follow from its number, so that the firewall's rules can be written once for all sandboxes.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use nix::ifaddrs::getifaddrs;
use rvm_config::MacAddress;
use std::io;

/// Ranges to try, in this order; the first that nothing on the host has is taken. They are private (RFC 1918) and at
/// places that routers, container engines and cloud networks do not choose by default.
const CANDIDATES: [Subnet; 4] = [
    Subnet { base: Ipv4Addr::new(172, 30, 77, 0), prefix: 24 },
    Subnet { base: Ipv4Addr::new(10, 177, 77, 0), prefix: 24 },
    Subnet { base: Ipv4Addr::new(192, 168, 177, 0), prefix: 24 },
    Subnet { base: Ipv4Addr::new(172, 24, 177, 0), prefix: 24 },
];

/// Names another range than these, as `10.9.8.0/24`.
pub const SUBNET_VARIABLE: &str = "RVM_SUBNET";

/// Prefixes that a range may have: a bridge has at most 1024 ports, and 5 sandboxes are few.
const PREFIXES: std::ops::RangeInclusive<u8> = 22..=29;

/// What the Ethernet addresses that rvm gives begin with; the first byte says that they are locally administered.
const OWN: [u8; 2] = [0x02, b'v'];

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why there is no range for the sandboxes.
#[derive(Debug, thiserror::Error)]
pub enum SubnetError {
    /// The variable's value is no range.
    #[error(
        "{SUBNET_VARIABLE} cannot be '{0}': an IPv4 network of 22 to 29 bits is expected, as 10.9.8.0/24"
    )]
    Malformed(String),
    /// The range that the user named is in use.
    #[error(
        "the network {wanted} that {SUBNET_VARIABLE} names overlaps {taken}, which this host has a route to"
    )]
    Overlaps {
        /// As the variable says.
        wanted: Subnet,
        /// What is there.
        taken: Subnet,
    },
    /// None of the list is free.
    #[error(
        "this host has routes to all networks that rvm knows for sandboxes ({}): name a free one, as \
         {SUBNET_VARIABLE}=10.9.8.0/24", list(&CANDIDATES)
    )]
    NoneFree,
    /// The host's routes or addresses cannot be read.
    #[error("cannot read the routes and addresses of this host")]
    Unreadable(#[source] io::Error),
}

impl Subnet {
    /// The range in which an interface has `address`.
    pub fn containing(address: Ipv4Addr, mask: Ipv4Addr) -> Self {
        let mask = u32::from(mask);
        let base = Ipv4Addr::from(u32::from(address) & mask);
        Self { base, prefix: u8::try_from(mask.leading_ones()).unwrap_or(32) }
    }

    /// Whether it could be a range for sandboxes.
    pub fn is_of_usual_size(&self) -> bool {
        PREFIXES.contains(&self.prefix)
    }

    /// Bits that all its addresses have in common.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bridge's address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// Numbers of the sandboxes.
    pub fn hosts(&self) -> std::ops::Range<u32> {
        let size = 1u32 << (32 - u32::from(self.prefix));
        2..size - 1
    }

    /// The address with this number.
    pub fn host(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base).wrapping_add(number))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let bits = u32::from(self.prefix.min(other.prefix));
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        (u32::from(self.base) ^ u32::from(other.base)) & mask == 0
    }
}

/// The Ethernet address of whoever has `address`.
pub fn mac(address: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = address.octets();
    let [first, second] = OWN;
    MacAddress([first, second, a, b, c, d])
}

/// Whether [`mac`] made the address.
pub fn is_own(mac: MacAddress) -> bool {
    mac.0.starts_with(&OWN)
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let parsed = text.split_once('/').and_then(|(base, prefix)| {
            let (base, prefix) = (base.parse::<Ipv4Addr>().ok()?, prefix.parse().ok()?);
            let fits =
                PREFIXES.contains(&prefix) && u32::from(base).trailing_zeros() >= 32 - u32::from(prefix);
            fits.then_some(Self { base, prefix })
        });
        parsed.ok_or_else(|| SubnetError::Malformed(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn list(subnets: &[Subnet]) -> String {
    subnets.iter().map(Subnet::to_string).collect::<Vec<_>>().join(", ")
}

/// The range for this host's sandboxes: what the variable says, else the first of the list that is free.
pub fn choose() -> Result<Subnet, SubnetError> {
    let wanted = match std::env::var(SUBNET_VARIABLE) {
        Ok(text) => Some(text.parse()?),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(text)) => {
            return Err(SubnetError::Malformed(text.to_string_lossy().into_owned()));
        }
    };
    first_free(wanted, &taken().map_err(SubnetError::Unreadable)?)
}

fn first_free(wanted: Option<Subnet>, taken: &[Subnet]) -> Result<Subnet, SubnetError> {
    let in_use = |subnet: &Subnet| taken.iter().find(|other| subnet.overlaps(other)).copied();
    match wanted {
        Some(wanted) => match in_use(&wanted) {
            Some(taken) => Err(SubnetError::Overlaps { wanted, taken }),
            None => Ok(wanted),
        },
        None => CANDIDATES.into_iter().find(|subnet| in_use(subnet).is_none()).ok_or(SubnetError::NoneFree),
    }
}

/// What the host has addresses in and routes to.
fn taken() -> io::Result<Vec<Subnet>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route")?;
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask?.as_sockaddr_in()?.ip();
        Some(Subnet::containing(address, mask))
    });
    Ok(addresses.chain(routes(&table)).collect())
}

/// The destinations in `table`, written as /proc/net/route is: words of hexadecimal digits in the host's byte order.
/// Default routes lead everywhere and are no reason.
fn routes(table: &str) -> impl Iterator<Item = Subnet> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        let destination = columns.nth(1)?;
        let mask = columns.nth(5)?;
        let address = |hex| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
        let subnet = Subnet::containing(address(destination)?, address(mask)?);
        (subnet.prefix > 0).then_some(subnet)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        tun0\t00001EAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_sandbox_has_the_address_after_the_bridge() {
        let subnet = subnet("10.9.8.0/24");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 8, 1));
        assert_eq!(subnet.hosts(), 2..255);
        assert_eq!(subnet.host(2), Ipv4Addr::new(10, 9, 8, 2));
        assert_eq!(mac(subnet.host(2)).to_string(), "02:76:0a:09:08:02");
    }

    #[test]
    fn a_range_is_a_network_of_a_size_that_a_bridge_serves() {
        for bad in ["", "10.9.8.0", "10.9.8.1/24", "10.9.0.0/16", "10.9.8.0/30", "10.9.8.0/33", "fd00::/64"] {
            let error = bad.parse::<Subnet>().unwrap_err();
            assert!(matches!(&error, SubnetError::Malformed(text) if text == bad), "{error}");
        }
        assert_eq!(subnet("10.9.8.0/22").hosts(), 2..1023);
    }

    #[test]
    fn routes_are_read_and_the_default_route_is_none() {
        if cfg!(target_endian = "little") {
            let found: Vec<_> = routes(TABLE).map(|subnet| subnet.to_string()).collect();
            assert_eq!(found, ["172.30.0.0/16"]);
        }
    }

    #[test]
    fn the_first_range_without_a_route_is_taken() {
        let wide = Subnet::containing(Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(255, 240, 0, 0));
        let narrow = Subnet::containing(Ipv4Addr::new(10, 177, 77, 9), Ipv4Addr::new(255, 255, 255, 255));
        assert_eq!(first_free(None, &[]).unwrap(), CANDIDATES[0]);
        assert_eq!(first_free(None, &[wide]).unwrap(), CANDIDATES[1]);
        assert_eq!(first_free(None, &[wide, narrow]).unwrap(), CANDIDATES[2]);
        assert!(matches!(first_free(None, &CANDIDATES), Err(SubnetError::NoneFree)));
    }

    #[test]
    fn a_range_that_the_user_names_is_taken_or_refused() {
        let wanted = subnet("10.9.8.0/24");
        assert_eq!(first_free(Some(wanted), &CANDIDATES).unwrap(), wanted);
        let error = first_free(Some(wanted), &[subnet("10.9.8.64/26")]).unwrap_err();
        assert!(
            error.to_string().contains("10.9.8.0/24") && error.to_string().contains("10.9.8.64/26"),
            "{error}"
        );
    }
}
