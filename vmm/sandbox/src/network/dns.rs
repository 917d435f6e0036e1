//! The name servers that a sandbox asks: those of the host that the sandbox can reach, resolv.conf(5).
//!
//! A server on a loopback address (systemd-resolved's 127.0.0.53, a local dnsmasq) is the host's own and cannot be
//! reached from another machine. For systemd-resolved its upstream servers stand in a second file. For others there
//! is nothing to read, and nothing is guessed: the user names a server. A forwarder on the bridge would have to be one
//! for all sandboxes, a daemon, or one for each at the same address; with passt, which has one built in, it is used.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rvm_agent_proto::Dns;

/// The host's configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// systemd-resolved's upstream servers, systemd-resolved.service(8).
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// More servers than resolvers take (MAXNS is 3), so that one of them being useless does no harm.
const MOST_SERVERS: usize = 6;

/// How a sandbox stands to name servers on the host's loopback addresses.
pub enum Loopback {
    /// It cannot ask them.
    OutOfReach,
    /// It asks this address instead, for the first server of the host whatever its address.
    Behind(Ipv4Addr),
}

/// What a sandbox with IPv4 alone gets: `wanted` servers if the user named some. Without any server names are not
/// resolved.
pub fn for_guest(wanted: &[IpAddr], loopback: Loopback) -> Dns {
    let host = read(Path::new(RESOLV_CONF)).unwrap_or_default();
    let servers = match (wanted, loopback) {
        ([], Loopback::Behind(forwarder)) => vec![forwarder.to_string()],
        ([], Loopback::OutOfReach) if reachable(&host).is_empty() => {
            reachable(&read(Path::new(UPSTREAM)).unwrap_or_default())
        }
        ([], Loopback::OutOfReach) => reachable(&host),
        (wanted, _) => wanted.iter().map(IpAddr::to_string).collect(),
    };
    Dns { servers, ..host }
}

fn read(path: &Path) -> io::Result<Dns> {
    std::fs::read_to_string(path).map(|text| parse(&text))
}

fn reachable(dns: &Dns) -> Vec<String> {
    let far = |server: &&String| server.parse().is_ok_and(|ip: Ipv4Addr| !ip.is_loopback());
    dns.servers.iter().filter(far).take(MOST_SERVERS).cloned().collect()
}

/// Reads resolv.conf(5). Of several `search` and `domain` lines the last counts.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.search = words.collect(),
            Some("domain") => dns.search = words.take(1).collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_only_the_host_reaches_are_left_out() {
        let dns = parse(
            "# local\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\n\
             nameserver  192.0.2.2 \nnameserver\n",
        );
        assert_eq!(reachable(&dns), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn the_last_search_list_counts_and_options_add_up() {
        let dns = parse(
            "domain a.example\nsearch b.example c.example\noptions ndots:5\noptions rotate edns0\n; end",
        );
        assert_eq!(dns.search, ["b.example", "c.example"]);
        assert_eq!(dns.options, ["ndots:5", "rotate", "edns0"]);
    }

    #[test]
    fn servers_that_the_user_names_are_taken_as_they_are() {
        let wanted = ["192.0.2.9".parse().expect("an address"), "127.0.0.1".parse().expect("an address")];
        assert_eq!(for_guest(&wanted, Loopback::OutOfReach).servers, ["192.0.2.9", "127.0.0.1"]);
        assert_eq!(for_guest(&[], Loopback::Behind([192, 0, 2, 3].into())).servers, ["192.0.2.3"]);
    }
}
