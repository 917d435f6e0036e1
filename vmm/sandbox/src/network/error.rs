//! Why a sandbox cannot have its network, in words for the user.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;

use super::bridge;
use super::publish::Publish;
use super::subnet::{SUBNET_VARIABLE, Subnet, SubnetError};

/// Why a sandbox cannot have its network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Ports of a sandbox that has no network.
    #[error("cannot publish ports of a sandbox without a network: leave out `--network none` or `-p`")]
    PublishNothing,
    /// passt(1) is missing.
    #[error(
        "cannot find `passt`, which gives a network to users without privileges: install the package passt"
    )]
    NoPasst,
    /// No range of addresses.
    #[error("cannot choose addresses for the network of the sandboxes")]
    Subnet(#[from] SubnetError),
    /// All addresses are in use.
    #[error(
        "all addresses of the network {0} are in use by sandboxes: end some, or give the network more, as with \
         {SUBNET_VARIABLE}=10.9.8.0/22 once all are ended"
    )]
    Full(Subnet),
    /// Somebody else's bridge.
    #[error(
        "cannot use the link {} for the network of the sandboxes: rvm did not make it; rename or remove it",
        bridge::NAME
    )]
    ForeignBridge,
    /// nft(8) is missing.
    #[error("cannot find `nft`, which the network of the sandboxes needs: install the package nftables")]
    NoNft,
    /// nft(8) failed.
    #[error("nft did not take the rules for the network of the sandboxes ({status}): {said}")]
    Nft {
        /// How it ended.
        status: ExitStatus,
        /// Its first line on standard error.
        said: String,
    },
    /// passt(1) does not serve.
    #[error("cannot get passt to serve the sandbox's network; it said: {said}")]
    Passt {
        /// Its last line on standard error.
        said: String,
        /// What became of the conversation.
        #[source]
        source: io::Error,
    },
    /// passt(1) leads guests to the host's loopback addresses.
    #[error(
        "cannot use the passt of this host: sandboxes would reach what the host serves on 127.0.0.1; install a \
         version from 2025 or later"
    )]
    OldPasst,
    /// passt(1) connects IPv4 to IPv4.
    #[error("cannot publish port {} at {}: passt does so at IPv4 addresses; leave the address out, or run as root",
        .0.guest_port, at(.0))]
    PasstOverIpv6(Publish),
    /// A port that cannot be listened at.
    #[error("cannot publish port {} at {}{}", port.guest_port, at(port), advice(source))]
    Port {
        /// What was asked for.
        port: Publish,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Another machine has its cards there.
    #[error("cannot use the network namespace: another VM of rvm is in it; give each pod one of its own")]
    NamespaceTaken,
    /// Programs of the host, or of another runtime's container, are there.
    #[error(
        "cannot use the network namespace: the process {process} ({name}) is in it, and would lose its network to the VM; a \
         container of another runtime shares none with a virtual machine: run both with rvm, or give each its own"
    )]
    InUse {
        /// One of them.
        process: u32,
        /// Its name.
        name: String,
    },
    /// ARP and neighbour discovery do not work there.
    #[error(
        "cannot lead the interface {0} to the VM: addresses are not asked for on it (NOARP), as with ipvlan in mode l3; \
         use mode l2, a bridge or macvlan"
    )]
    NoArp(String),
    /// More interfaces than cards.
    #[error("cannot lead {needed} interfaces to the VM: it was started with {have} network cards")]
    TooFewCards {
        /// Interfaces.
        needed: usize,
        /// Cards.
        have: usize,
    },
    /// Anything else that the host refuses.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// The kernel does not say what rules it has.
    pub(super) fn reading_rules(source: io::Error) -> Self {
        Self::Io { attempt: "ask the kernel for the nftables rules".into(), source }
    }

    /// Whether the bridge was taken away meanwhile.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }
}

fn at(port: &Publish) -> String {
    let ip = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    format!("{}/{}", SocketAddr::new(ip, port.host_port), port.protocol)
}

/// What to do about a port that cannot be had.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": something else listens there; end that, or choose another port",
        io::ErrorKind::PermissionDenied => ": ports below 1024 are root's; choose a higher one",
        io::ErrorKind::AddrNotAvailable => ": this host has no such address",
        _ => "",
    }
}
