//! The network of a user without privileges: passt(1), which makes sockets of the guest's packets.
//!
//! passt speaks to the VMM over a stream socket: before each Ethernet frame its length, 32 bits, big-endian. It is
//! started with one end of a socket pair and ends when the other end is closed: with the VMM, however that ends.
//!
//! passt is asked to prove two things before the VM starts, by frames as a guest could send them. It answers, so its
//! ports are open. And a sandbox does not reach what the host serves on its loopback addresses: versions before the end
//! of 2024 connect to 127.0.0.1 when a guest's packet says so. Those are refused.

mod proof;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::proxy::Listening;
use super::publish::{Protocol, Publish, Published};
use super::{Identity, NetworkError, program};

/// How long passt may take to answer, and to end once nobody speaks to it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How much of what passt says may be in an error.
const MOST_SAID: u64 = 2000;

/// A running passt.
pub struct Passt {
    /// The VMM's end of the socket, until the VMM has it.
    pub card: Option<OwnedFd>,
    child: Child,
    /// Takes what it says, so that it never waits for a reader.
    stderr: JoinHandle<()>,
}

impl Passt {
    /// Starts passt for `guest` with `ports` open, and waits until it serves. What the guest sends to port 53 of
    /// `forwarder`, the host's name server gets.
    pub async fn start(
        ports: &[Publish],
        guest: &Identity,
        forwarder: Ipv4Addr,
    ) -> Result<(Self, Vec<Published>), NetworkError> {
        let published = free(ports).await?;
        let (mut child, mut socket) = spawn(&arguments(&published, guest, forwarder))?;
        let proof = timeout(PATIENCE, proof::demand(&mut socket, guest)).await;
        match proof.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
            Ok(true) => {}
            Ok(false) => return Err(NetworkError::OldPasst),
            Err(source) => return Err(NetworkError::Passt { said: said(&mut child).await, source }),
        }
        let stderr = child.stderr.take();
        let stderr = tokio::spawn(async move {
            if let Some(mut stderr) = stderr {
                // What a guest can make it say is nothing to keep; its end is seen elsewhere.
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            }
        });
        let card = socket.into_std().map_err(starting)?;
        Ok((Self { card: Some(card.into()), child, stderr }, published))
    }

    /// Waits for its end, which is the VMM's end; then insists on it.
    pub async fn stop(mut self) -> Result<(), NetworkError> {
        self.card = None;
        let failed = |source| NetworkError::Io { attempt: "end passt".into(), source };
        let ended = match timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.child.kill().await,
        };
        self.stderr.abort();
        ended.map_err(failed)
    }
}

/// Starts passt with one end of a socket pair as its standard input; the other end is the VMM's.
fn spawn(arguments: &[String]) -> Result<(Child, UnixStream), NetworkError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(starting)?;
    let mut command = Command::new(program("passt").ok_or(NetworkError::NoPasst)?);
    command.args(arguments).env_clear().kill_on_drop(true);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(starting)?;
    ours.set_nonblocking(true).map_err(starting)?;
    // The command, which ends here, has the other end: that must be passt's alone.
    Ok((child, UnixStream::from_std(ours).map_err(starting)?))
}

fn starting(source: io::Error) -> NetworkError {
    NetworkError::Io { attempt: "start passt".into(), source }
}

/// Finds out which ports are free, as passt cannot choose and does not say why one cannot be had.
async fn free(ports: &[Publish]) -> Result<Vec<Published>, NetworkError> {
    let mut sockets = Vec::new();
    let mut published = Vec::new();
    for port in ports {
        let host_ip = match port.host_ip {
            Some(IpAddr::V6(_)) => return Err(NetworkError::PasstOverIpv6(*port)),
            v4 => v4.or(Some(Ipv4Addr::UNSPECIFIED.into())),
        };
        let port = Publish { host_ip, ..*port };
        let socket = Listening::open(&port).await?;
        let host = socket.address().map_err(|source| NetworkError::Port { port, source })?;
        published.push(Published { host, guest_port: port.guest_port, protocol: port.protocol });
        // Held until all are known, so that no two get the same.
        sockets.push(socket);
    }
    Ok(published)
}

/// Words of the command line that passt has had since 2023.
fn arguments(published: &[Published], guest: &Identity, forwarder: Ipv4Addr) -> Vec<String> {
    let subnet = &guest.subnet;
    // Addresses are told to the guest by its agent. The gateway's address must not lead to the host's loopback.
    let mut words: Vec<String> =
        "--foreground --quiet --fd 0 --ipv4-only --no-map-gw --no-dhcp --no-dhcpv6 --no-ndp --no-ra"
            .split(' ')
            .map(str::to_owned)
            .collect();
    for (option, value) in [
        ("--address", guest.address.to_string()),
        ("--netmask", subnet.prefix().to_string()),
        ("--gateway", subnet.gateway().to_string()),
        ("--dns-forward", forwarder.to_string()),
    ] {
        words.extend([option.to_owned(), value]);
    }
    for (protocol, option) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
        let mut ports = published.iter().filter(|port| port.protocol == protocol).peekable();
        if ports.peek().is_none() {
            words.extend([option.to_owned(), "none".to_owned()]);
        }
        for port in ports {
            let spec = match port.host.ip() {
                ip if ip.is_unspecified() => format!("{}:{}", port.host.port(), port.guest_port),
                ip => format!("{ip}/{}:{}", port.host.port(), port.guest_port),
            };
            words.extend([option.to_owned(), spec]);
        }
    }
    words
}

/// The last line that passt said before it ended.
async fn said(child: &mut Child) -> String {
    let mut text = Vec::new();
    // It is about to end, or hangs; then it is ended.
    let _ = child.start_kill();
    if let Some(stderr) = child.stderr.take() {
        // What could be read is what there is to tell.
        let _ = stderr.take(MOST_SAID).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).lines().last().unwrap_or("it said nothing").trim().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn guest() -> Identity {
        Identity { subnet: "172.30.77.0/24".parse().unwrap(), address: "172.30.77.2".parse().unwrap() }
    }

    #[test]
    fn ports_are_written_as_passt_reads_them() {
        let published = |host: &str, guest_port, protocol| Published {
            host: host.parse().unwrap(),
            guest_port,
            protocol,
        };
        let ports =
            [published("0.0.0.0:8080", 80, Protocol::Tcp), published("127.0.0.1:8443", 443, Protocol::Tcp)];
        let words = arguments(&ports, &guest(), Ipv4Addr::new(172, 30, 77, 3)).join(" ");
        assert!(
            words.ends_with("--tcp-ports 8080:80 --tcp-ports 127.0.0.1/8443:443 --udp-ports none"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn ports_are_known_or_refused_before_passt_starts() {
        let port = |host: &str| match host.parse::<super::super::Ports>() {
            Ok(ports) => ports.0,
            Err(error) => panic!("{error}"),
        };
        let free_ones = free(&port("127.0.0.1::80-81")).await.unwrap();
        assert!(free_ones[0].host.port() != 0 && free_ones[0].host != free_ones[1].host);
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = free(&port(&format!("{}:80/udp", held.local_addr().unwrap()))).await.unwrap_err();
        assert!(matches!(error, NetworkError::Port { .. }), "{error}");
    }
}
