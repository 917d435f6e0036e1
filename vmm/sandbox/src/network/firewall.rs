//! The packet filter of the bridge: nftables, in two tables of rvm's own, which nobody else's rules are in.
//!
//! `table ip rvm` translates the addresses of sandboxes on the way out, keeps strangers from routing packets in, and
//! keeps sandboxes from what the host serves on its loopback addresses (which is unreachable anyway, unless somebody
//! set route_localnet). `table bridge rvm` lets a sandbox send only from its own addresses; the set has all numbers of
//! the range, because who has which follows from the number. So nothing is to be done when a sandbox comes or goes.
//!
//! nft(8) loads the rules. Whether they are there is asked, and they are removed, by netlink: that is two short
//! messages, and costs no process.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::netlink::{Message, Netlink, find, text};
use super::subnet::{Subnet, mac};
use super::{NetworkError, bridge, program};

/// Name of both tables.
const TABLE: &str = "rvm";

/// Families (linux/netfilter.h).
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_BRIDGE: u8 = 7;

/// `NFNL_SUBSYS_NFTABLES`, and the kinds of its messages (linux/netfilter/nf_tables.h).
const NFTABLES: u16 = 10;
const GET_TABLE: u16 = NFTABLES << 8 | 1;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const GET_CHAIN: u16 = NFTABLES << 8 | 4;
/// Changes come between these (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Attributes.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
/// `struct nfgenmsg`: family, version, subsystem.
const NFGENMSG: usize = 4;
/// `NF_DROP` as NFTA_CHAIN_POLICY has it.
const DROP: [u8; 4] = [0; 4];

/// Whether both tables are there.
pub fn is_loaded() -> io::Result<bool> {
    let mut netlink = Netlink::netfilter()?;
    for family in [NFPROTO_IPV4, NFPROTO_BRIDGE] {
        let question = Message::new(GET_TABLE, &about(family)).attribute(NFTA_TABLE_NAME, &text(TABLE));
        match netlink.ask(question) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Makes both tables anew, both or none.
pub fn load(subnet: &Subnet) -> Result<(), NetworkError> {
    let nft = program("nft").ok_or(NetworkError::NoNft)?;
    let failed = |source| NetworkError::Io { attempt: "run nft for the rules of the network".into(), source };
    let mut command = Command::new(nft);
    command.args(["-f", "-"]).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // nft reads all of it before it says anything.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(ruleset(subnet).as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it said nothing").to_owned();
        return Err(NetworkError::Nft { status: output.status, said });
    }
    written.map_err(failed)
}

/// Removes both tables, and what is in them.
pub fn unload() -> io::Result<()> {
    let mut netlink = Netlink::netfilter()?;
    for family in [NFPROTO_IPV4, NFPROTO_BRIDGE] {
        let [high, low] = NFTABLES.to_be_bytes();
        let batch = [
            Message::new(BATCH_BEGIN, &[0, 0, high, low]),
            Message::new(DELETE_TABLE, &about(family))
                .attribute(NFTA_TABLE_NAME, &text(TABLE))
                .acknowledged(),
            Message::new(BATCH_END, &[0, 0, high, low]),
        ];
        match netlink.exchange(&batch) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the host's own firewall keeps sandboxes from the world, and what to do. An accept in a table of ours does
/// not outweigh a drop in another, and others' tables are not ours to change.
///
/// Looked at is the chain of forwarded packets that iptables-nft keeps, whose policy Docker sets to drop. Where rules
/// in it name the bridge, somebody saw to it.
pub fn obstacle() -> io::Result<Option<String>> {
    let Some(policy) = policy_of("FORWARD")? else { return Ok(None) };
    if policy != DROP {
        return Ok(None);
    }
    let chain = if policy_of("DOCKER-USER")?.is_some() { "DOCKER-USER" } else { "FORWARD" };
    let bridge = bridge::NAME;
    if rules_of(chain)?.contains(&format!("\"{bridge}\"")) {
        return Ok(None);
    }
    Ok(Some(format!(
        "the sandbox cannot reach the world: this host's firewall drops what it forwards; let it through with \
         `iptables -I {chain} -i {bridge} -j ACCEPT; iptables -I {chain} -o {bridge} -j ACCEPT`"
    )))
}

/// The policy of a chain of iptables-nft's filter table, empty where the chain has none; `None` without the chain.
fn policy_of(chain: &str) -> io::Result<Option<Vec<u8>>> {
    let question = Message::new(GET_CHAIN, &about(NFPROTO_IPV4))
        .attribute(NFTA_CHAIN_TABLE, &text("filter"))
        .attribute(NFTA_CHAIN_NAME, &text(chain));
    match Netlink::netfilter()?.ask(question) {
        Ok(chains) => {
            let policy =
                |chain: &Vec<u8>| find(chain.get(NFGENMSG..)?, NFTA_CHAIN_POLICY).map(<[u8]>::to_vec);
            Ok(Some(chains.iter().find_map(policy).unwrap_or_default()))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rules of a chain of iptables-nft's filter table, as nft(8) writes them.
fn rules_of(chain: &str) -> io::Result<String> {
    let nft = program("nft").ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(nft).args(["list", "chain", "ip", "filter", chain]).env_clear().output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn about(family: u8) -> [u8; NFGENMSG] {
    [family, 0, 0, 0]
}

/// The rules in nft(8)'s language. `add` before `delete`, so that the table may be missing.
fn ruleset(subnet: &Subnet) -> String {
    let bridge = bridge::NAME;
    let mut guests = String::new();
    for number in subnet.hosts() {
        let address = subnet.host(number);
        // Writing to a String does not fail.
        let _ = write!(guests, "\"{}\" . {} . {address},", bridge::tap_name(number), mac(address));
    }
    format!(
        r#"add table ip {TABLE}
delete table ip {TABLE}
add table bridge {TABLE}
delete table bridge {TABLE}
table ip {TABLE} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "{bridge}" oifname "{bridge}" ct state != {{ established, related }} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
table bridge {TABLE} {{
  set guests {{
    type ifname . ether_addr . ipv4_addr
    elements = {{ {guests} }}
  }}
  chain from_guests {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{bridge}-*" accept
    iifname . ether saddr . ip saddr @guests accept
    iifname . ether saddr . arp saddr ip @guests iifname . arp saddr ether . arp saddr ip @guests accept
    drop
  }}
}}
"#
    )
}
