//! Networks of sandboxes: a network card for the VMM, addresses for the guest, ports of the host for what it serves.
//!
//! Two ways, by what the user may do:
//!
//! | user | way |
//! |---|---|
//! | may administer the network (root) | [`place`]: a tap on a bridge, [`firewall`]: NAT, [`proxy`]: ports |
//! | any other | [`passt`]: a process that makes sockets of packets |
//!
//! A third way is a network that others made, CNI plugins or Docker: [`Cards`] take its interfaces' places.
//!
//! Where the tool for neither is there, the sandbox has no card, and the user is told.
//!
//! Nothing outlives its sandbox. [`Network::close`] gives everything back; after a kill -9 the kernel has taken back
//! sockets, proxies and the tap by itself, and [`reclaim`] removes an idle bridge. What the guest is told to have is
//! made here; that it has it is the agent's work (rvm_agent_proto).

mod adopted;
mod bridge;
mod dns;
mod error;
mod firewall;
mod link;
mod netlink;
mod passt;
mod place;
mod proxy;
mod publish;
mod subnet;
mod tap;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use rvm_agent_proto as proto;
use rvm_config::NetHost;
use serde::{Deserialize, Serialize};

pub use adopted::{Adopted, Cards, Changes, Watch, refuse_others};
pub use error::NetworkError;
use passt::Passt;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    way: Option<Way>,
}

/// What is to be given back.
enum Way {
    Bridge(Place, Proxy),
    Passt(Passt),
}

/// Who the guest is on its network.
struct Identity {
    subnet: Subnet,
    address: Ipv4Addr,
}

/// Gives a sandbox its network. `runtime_dir` is where this user's sandboxes are; fails or succeeds as a whole.
pub async fn open(request: NetworkRequest, runtime_dir: &Path) -> Result<Network, NetworkError> {
    match request.mode {
        NetworkMode::None if request.publish.is_empty() => Ok(Network::default()),
        NetworkMode::None => Err(NetworkError::PublishNothing),
        NetworkMode::Default if may_administer() && program("nft").is_some() => {
            open_on_bridge(request, runtime_dir).await
        }
        NetworkMode::Default if program("passt").is_some() => match open_on_passt(&request).await {
            Err(error @ (NetworkError::Passt { .. } | NetworkError::OldPasst)) => request.do_without(error),
            opened => opened,
        },
        NetworkMode::Default if may_administer() => request.do_without(NetworkError::NoNft),
        NetworkMode::Default => request.do_without(NetworkError::NoPasst),
    }
}

/// Gives back what the supervisor of a sandbox left when it was killed. Its VMM must have ended; it is no error if
/// there is nothing, or if others are using it.
pub async fn reclaim(runtime_dir: &Path) -> Result<(), NetworkError> {
    // passt ends by itself.
    if !may_administer() {
        return Ok(());
    }
    let runtime_dir = runtime_dir.to_owned();
    off_the_loop(move || place::reclaim(&runtime_dir)).await
}

impl NetworkRequest {
    /// No network, for the reason `why`: told to the user who did not ask for one, an error for the one who did.
    fn do_without(&self, why: NetworkError) -> Result<Network, NetworkError> {
        match self.required || !self.publish.is_empty() {
            true => Err(why),
            false => Ok(Network { notice: Some(format!("no network: {why}")), ..Network::default() }),
        }
    }
}

impl Network {
    /// The descriptor that the card has, which the VMM must inherit under the same number.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self.way.as_ref()? {
            Way::Bridge(place, _) => place.tap.as_ref(),
            Way::Passt(passt) => passt.card.as_ref(),
        }
        .map(AsFd::as_fd)
    }

    /// Closes this process's descriptor of the card: the VMM has it, and its end is the end of the card.
    pub fn handed_over(&mut self) {
        match &mut self.way {
            Some(Way::Bridge(place, _)) => place.tap = None,
            Some(Way::Passt(passt)) => passt.card = None,
            None => {}
        }
    }

    /// Gives everything back, after the end of the VMM.
    pub async fn close(self) -> Result<(), NetworkError> {
        match self.way {
            Some(Way::Bridge(place, proxy)) => {
                proxy.stop().await;
                off_the_loop(move || place.give_back()).await
            }
            Some(Way::Passt(passt)) => passt.stop().await,
            None => Ok(()),
        }
    }
}

/// Where a sandbox asks for names of which nobody says anything else: the host's name servers, those that it can reach.
pub fn dns_of_host() -> proto::Dns {
    dns::for_guest(&[], dns::Loopback::OutOfReach)
}

async fn open_on_bridge(request: NetworkRequest, runtime_dir: &Path) -> Result<Network, NetworkError> {
    let (vm_id, directory) = (request.vm_id.clone(), runtime_dir.to_owned());
    let place = off_the_loop(move || Place::take(&vm_id, &directory)).await?;
    let notice = off_the_loop(|| firewall::obstacle().map_err(NetworkError::reading_rules)).await?;
    let (proxy, published) = Proxy::start(&request.publish, place.identity.address.into()).await?;
    let dns = dns::for_guest(&request.dns, dns::Loopback::OutOfReach);
    let tap = place.tap.as_ref().map(|tap| NetHost::Tap(rvm_config::Tap::Fd(tap.as_raw_fd())));
    let network = place.identity.network(&request, tap, dns);
    Ok(Network { published, notice, way: Some(Way::Bridge(place, proxy)), ..network })
}

async fn open_on_passt(request: &NetworkRequest) -> Result<Network, NetworkError> {
    let subnet = subnet::choose()?;
    let identity = Identity { subnet, address: subnet.host(2) };
    // In whose place passt asks the host's name server.
    let forwarder = subnet.host(3);
    let (passt, published) = Passt::start(&request.publish, &identity, forwarder).await?;
    let dns = dns::for_guest(&request.dns, dns::Loopback::Behind(forwarder));
    let socket = passt.card.as_ref().map(|card| NetHost::Socket(rvm_config::Socket { fd: card.as_raw_fd() }));
    let network = identity.network(request, socket, dns);
    Ok(Network { published, way: Some(Way::Passt(passt)), ..network })
}

impl Identity {
    /// The network of a guest whose card has this end on the host, as it is told to the guest.
    fn network(&self, request: &NetworkRequest, host: Option<NetHost>, dns: proto::Dns) -> Network {
        let Self { subnet, address } = self;
        let mac = subnet::mac(*address);
        let offload = matches!(host, Some(NetHost::Tap(_)));
        Network {
            card: host.map(|host| rvm_config::Net { host, mac: Some(mac), mtu: None, offload }),
            interfaces: vec![proto::Interface {
                mac: mac.to_string(),
                name: CARD.into(),
                addresses: vec![format!("{address}/{}", subnet.prefix())],
                up: true,
                ..proto::Interface::default()
            }],
            routes: vec![proto::Route {
                destination: "0.0.0.0/0".into(),
                gateway: subnet.gateway().to_string(),
                interface: CARD.into(),
                ..proto::Route::default()
            }],
            dns: Some(dns),
            hosts: vec![proto::HostEntry {
                address: address.to_string(),
                names: vec![request.hostname.clone()],
            }],
            address: Some((*address).into()),
            ..Network::default()
        }
    }
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
