//! The packet filter of the bridge: nftables, in two tables of rvm's own, which nobody else's rules are in.
//!
//! `table ip rvm` translates the addresses of sandboxes on the way out, keeps strangers from routing packets in, and
//! keeps sandboxes from what the host serves on its loopback addresses (which is unreachable anyway, unless somebody
//! set route_localnet). `table bridge rvm` lets a sandbox send only from its own addresses; the set has all numbers of
//! the range, because who has which follows from the number. So nothing is to be done when a sandbox comes or goes.
//!
//! nft(8) loads the rules. The set is filled by netlink, for nft is slow with long lists; and so it is asked whether the
//! rules are there, and they are removed, for that costs no process.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::netlink::{Message, NLM_F_CREATE, Netlink, attribute, find, nested, text};
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
const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
/// Changes come between these (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Attributes.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
/// `struct nfgenmsg`: family, version, subsystem.
const NFGENMSG: usize = 4;
/// The set of those who may send.
const GUESTS: &str = "guests";
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

/// Makes both tables anew.
pub fn load(subnet: &Subnet) -> Result<(), NetworkError> {
    load_rules(subnet)?;
    let attempt = || "tell the firewall of the sandboxes' addresses".to_owned();
    fill_guests(subnet).map_err(|source| NetworkError::Io { attempt: attempt(), source })
}

/// Makes both tables, both or none, with nobody in the set.
fn load_rules(subnet: &Subnet) -> Result<(), NetworkError> {
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

/// Lets all numbers of the range send, each from its tap with its addresses.
fn fill_guests(subnet: &Subnet) -> io::Result<()> {
    let element = |number| {
        let address = subnet.host(number);
        // As nft lays `ifname . ether_addr . ipv4_addr` out: each on four bytes, a name has 16.
        let mut key = bridge::tap_name(number).into_bytes();
        key.resize(16, 0);
        key.extend(mac(address).0);
        key.extend([0; 2]);
        key.extend(address.octets());
        nested(NFTA_LIST_ELEM, &nested(NFTA_SET_ELEM_KEY, &attribute(NFTA_DATA_VALUE, &key)))
    };
    let elements: Vec<u8> = subnet.hosts().flat_map(element).collect();
    let message = Message::new(NEW_ELEMENTS, &about(NFPROTO_BRIDGE))
        .with(NLM_F_CREATE)
        .attribute(NFTA_SET_ELEM_LIST_TABLE, &text(TABLE))
        .attribute(NFTA_SET_ELEM_LIST_SET, &text(GUESTS))
        .append(&nested(NFTA_SET_ELEM_LIST_ELEMENTS, &elements));
    change(message)
}

/// Removes both tables, and what is in them.
pub fn unload() -> io::Result<()> {
    for family in [NFPROTO_IPV4, NFPROTO_BRIDGE] {
        let message = Message::new(DELETE_TABLE, &about(family)).attribute(NFTA_TABLE_NAME, &text(TABLE));
        match change(message) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Has the kernel do what `message` says, as a batch of its own.
fn change(message: Message) -> io::Result<()> {
    let [high, low] = NFTABLES.to_be_bytes();
    let edge = |kind| Message::new(kind, &[0, 0, high, low]);
    let batch = [edge(BATCH_BEGIN), message.acknowledged(), edge(BATCH_END)];
    Netlink::netfilter()?.exchange(&batch).map(drop)
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
  set {GUESTS} {{
    type ifname . ether_addr . ipv4_addr
  }}
  chain from_guests {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{bridge}-*" accept
    iifname . ether saddr . ip saddr @{GUESTS} accept
    iifname . ether saddr . arp saddr ip @{GUESTS} iifname . arp saddr ether . arp saddr ip @{GUESTS} accept
    drop
  }}
}}
"#
    )
}
