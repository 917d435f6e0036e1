//! Networks of sandboxes: a network card for the VMM, addresses for the guest, ports of the host for what it serves.
//!
//! Two ways, by what the user may do:
//!
//! | user | way |
//! |---|---|
//! | may administer the network (root) | [`bridge`]: a tap on a bridge, [`firewall`]: NAT, [`proxy`]: ports |
//! | any other | none yet: the sandbox has no card |
//!
//! Nothing outlives its sandbox. [`Network::close`] gives everything back; after a kill -9 the kernel has taken back
//! sockets, proxies and the tap by itself, and [`reclaim`] removes an idle bridge. What the guest is told to have is
//! made here; that it has it is the agent's work (rvm_agent_proto).

mod bridge;
mod dns;
mod error;
mod firewall;
mod link;
mod netlink;
mod place;
mod proxy;
mod publish;
mod subnet;
mod tap;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use rvm_agent_proto as proto;

pub use error::NetworkError;
use place::Place;
use proxy::Proxy;
pub use publish::{Ports, Protocol, Publish, PublishError, Published};
pub use subnet::{SUBNET_VARIABLE, Subnet, SubnetError};

/// The card's name in the guest.
const CARD: &str = "eth0";

/// What a sandbox is to have.
#[derive(Clone, Debug)]
pub struct NetworkRequest {
    /// Whether it is to have a network.
    pub mode: NetworkMode,
    /// The user asked for the network by name: an error where there is none, instead of a notice. Published ports ask
    /// for it too.
    pub required: bool,
    /// Ports of the sandbox to be reached on the host.
    pub publish: Vec<Publish>,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// The sandbox's id.
    pub vm_id: String,
    /// The name by which the guest finds its own address.
    pub hostname: String,
}

/// Whether a sandbox is to have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// No network card.
    None,
    /// The way to the host's network that the user may have.
    #[default]
    Default,
}

/// A sandbox's network. Dropped, it is given back as by [`Self::close`], without a word about failures.
#[derive(Default)]
pub struct Network {
    /// For the VMM; its descriptor is [`Self::descriptor`], closed on exec.
    pub card: Option<rvm_config::Net>,
    /// For the guest.
    pub interfaces: Vec<proto::Interface>,
    /// For the guest.
    pub routes: Vec<proto::Route>,
    /// For the guest.
    pub dns: Option<proto::Dns>,
    /// For the guest: its own name.
    pub hosts: Vec<proto::HostEntry>,
    /// The guest's address.
    pub address: Option<IpAddr>,
    /// The ports, with those that the host chose.
    pub published: Vec<Published>,
    /// What the user should know, in one line.
    pub notice: Option<String>,
    proxy: Option<Proxy>,
    place: Option<Place>,
}

/// Gives a sandbox its network. `runtime_dir` is where this user's sandboxes are; fails or succeeds as a whole.
pub async fn open(request: NetworkRequest, runtime_dir: &Path) -> Result<Network, NetworkError> {
    match request.mode {
        NetworkMode::None if request.publish.is_empty() => Ok(Network::default()),
        NetworkMode::None => Err(NetworkError::PublishNothing),
        NetworkMode::Default if !may_administer() => unavailable(&request, "only root can have one"),
        NetworkMode::Default if program("nft").is_none() => {
            unavailable(&request, "nft is missing; install the package nftables")
        }
        NetworkMode::Default => open_on_bridge(request, runtime_dir).await,
    }
}

/// Gives back what the supervisor of a sandbox left when it was killed. Its VMM must have ended; it is no error if
/// there is nothing, or if others are using it.
pub async fn reclaim(runtime_dir: &Path) -> Result<(), NetworkError> {
    if !may_administer() {
        return Ok(());
    }
    let runtime_dir = runtime_dir.to_owned();
    off_the_loop(move || place::reclaim(&runtime_dir)).await
}

impl Network {
    /// The descriptor that the card has, which the VMM must inherit under the same number.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.place.as_ref()?.tap.as_ref().map(AsFd::as_fd)
    }

    /// Closes this process's descriptor of the card: the VMM has it, and its end is the end of the card.
    pub fn handed_over(&mut self) {
        if let Some(place) = &mut self.place {
            place.tap = None;
        }
    }

    /// Gives everything back, after the end of the VMM.
    pub async fn close(mut self) -> Result<(), NetworkError> {
        if let Some(proxy) = self.proxy.take() {
            proxy.stop().await;
        }
        match self.place.take() {
            Some(place) => off_the_loop(move || place.give_back()).await,
            None => Ok(()),
        }
    }
}

/// No network: said to the user who did not ask for one, an error for the one who did.
fn unavailable(request: &NetworkRequest, why: &'static str) -> Result<Network, NetworkError> {
    match request.required || !request.publish.is_empty() {
        true => Err(NetworkError::Unavailable(why)),
        false => Ok(Network { notice: Some(format!("no network: {why}")), ..Network::default() }),
    }
}

async fn open_on_bridge(request: NetworkRequest, runtime_dir: &Path) -> Result<Network, NetworkError> {
    let (vm_id, directory) = (request.vm_id, runtime_dir.to_owned());
    let place = off_the_loop(move || Place::take(&vm_id, &directory)).await?;
    let notice = off_the_loop(|| firewall::obstacle().map_err(NetworkError::reading_rules)).await?;
    let (address, mac) = (place.address, subnet::mac(place.address));
    let (proxy, published) = Proxy::start(&request.publish, address.into()).await?;
    let tap = place.tap.as_ref().map(|tap| rvm_config::NetHost::Tap(rvm_config::Tap::Fd(tap.as_raw_fd())));
    Ok(Network {
        card: tap.map(|host| rvm_config::Net { host, mac: Some(mac), mtu: None, offload: true }),
        interfaces: vec![proto::Interface {
            mac: mac.to_string(),
            name: CARD.into(),
            addresses: vec![format!("{address}/{}", place.subnet.prefix())],
            up: true,
            ..proto::Interface::default()
        }],
        routes: vec![proto::Route {
            destination: "0.0.0.0/0".into(),
            gateway: place.subnet.gateway().to_string(),
            interface: CARD.into(),
            ..proto::Route::default()
        }],
        dns: Some(dns::for_guest(&request.dns)),
        hosts: vec![proto::HostEntry { address: address.to_string(), names: vec![request.hostname] }],
        address: Some(address.into()),
        published,
        notice,
        proxy: Some(proxy),
        place: Some(place),
    })
}

/// Runs what blocks on a thread of its own.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => Err(NetworkError::Io { attempt: "set the network up".into(), source: ended.into() }),
    }
}

/// Whether this process has CAP_NET_ADMIN, capabilities(7).
fn may_administer() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_NET_ADMIN & 1 == 1)
}

/// Finds a program, also where only root's `PATH` leads.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| access(file, AccessFlags::X_OK).is_ok())
}

#[cfg(test)]
mod tests;
