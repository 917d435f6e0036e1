//! Published ports: what arrives at a port of the host is passed on to a port of the sandbox, by this process.
//!
//! A proxy rather than address translation, because it also serves 127.0.0.1 and the host's own connections, and ends
//! with its process: no rule is left behind. The sandbox sees connections from the bridge.
//!
//! Bytes from either side are only carried. What peers can make this process hold is bounded: connections and UDP clients
//! of all ports together by [`PLACES`], and what each holds as [`tcp`] and [`udp`] say.

mod tcp;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::NetworkError;
use super::publish::{Protocol, Publish, Published};

/// Connections and UDP clients of a sandbox at a time. Each takes two descriptors or one, of the 1024 that a process
/// mostly may have, and the supervisor needs some for itself.
const PLACES: usize = 400;

/// The ports of one sandbox. Dropped, they are closed, and so is every connection through them.
pub struct Proxy {
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on the host for all of `ports`, or none, and serves them from now on. `guest` is the sandbox's address.
    pub async fn start(ports: &[Publish], guest: IpAddr) -> Result<(Self, Vec<Published>), NetworkError> {
        let mut listening = Vec::new();
        for port in ports {
            listening.push(Listening::open(port).await?);
        }
        let places = Arc::new(Semaphore::new(PLACES));
        let mut tasks = JoinSet::new();
        let mut published = Vec::new();
        for (port, socket) in ports.iter().zip(listening) {
            let failed = |source| NetworkError::Port { port: *port, source };
            let host = socket.address().map_err(failed)?;
            published.push(Published { host, guest_port: port.guest_port, protocol: port.protocol });
            let target = SocketAddr::new(guest, port.guest_port);
            match socket {
                Listening::Tcp(listener) => tasks.spawn(tcp::serve(listener, target, places.clone())),
                Listening::Udp(socket) => tasks.spawn(udp::serve(socket, target, places.clone(), udp::IDLE)),
            };
        }
        Ok((Self { tasks }, published))
    }

    /// Closes the ports and all connections.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// The host's end of a port.
pub enum Listening {
    /// Takes connections.
    Tcp(TcpListener),
    /// Takes datagrams.
    Udp(UdpSocket),
}

impl Listening {
    /// Listens at the port's address.
    pub async fn open(port: &Publish) -> Result<Self, NetworkError> {
        match port.protocol {
            Protocol::Tcp => listen(port, TcpListener::bind).await.map(Self::Tcp),
            Protocol::Udp => listen(port, UdpSocket::bind).await.map(Self::Udp),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// Binds to the port's address: without one to all, by one IPv6 socket that takes IPv4 too, or where there is no IPv6
/// by one for IPv4.
async fn listen<S, F>(port: &Publish, bind: impl Fn(SocketAddr) -> F) -> Result<S, NetworkError>
where
    F: Future<Output = io::Result<S>>,
{
    let at = |ip| SocketAddr::new(ip, port.host_port);
    let bound = match port.host_ip {
        Some(ip) => bind(at(ip)).await,
        None => match bind(at(Ipv6Addr::UNSPECIFIED.into())).await {
            Err(error) if no_ipv6(&error) => bind(at(Ipv4Addr::UNSPECIFIED.into())).await,
            bound => bound,
        },
    };
    bound.map_err(|source| NetworkError::Port { port: *port, source })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests;
