//! Names of the pod's network: a name server that answers at a loopback address of the pod's namespace on the host, as
//! Docker's does at 127.0.0.11, for the guest, whose loopback interface is another.
//!
//! ```text
//!  program ── 127.0.0.11:53 ── agent ── vsock ── here ── 127.0.0.11:53 in the pod's namespace
//! ```
//!
//! A thread in that namespace does it, so that its sockets are there. What the guest sends are bytes for the name server,
//! at most so many at a time.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener as Listener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rvm_agent_proto::{NAMES_DATAGRAM_PORT, NAMES_STREAM_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::error::ShimError;
use crate::log::Log;
use crate::place::Place;

/// Where name servers answer.
const PORT: u16 = 53;
/// Connections of the guest at a time.
const MOST: usize = 64;
/// The guest's resolver asks again before.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time of a connection.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);
/// Longest datagram of an answer.
const LONGEST: usize = 65_535;

/// Answers until it is dropped.
pub struct Names {
    _ends: oneshot::Sender<()>,
}

/// The first name server of a resolv.conf(5) that is at a loopback address.
pub fn on_loopback(resolv_conf: &str) -> Option<IpAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.into_iter().find(IpAddr::is_loopback)
}

impl Names {
    /// Answers the guest of the pod at `place` by asking `server` in a network namespace.
    pub fn serve(place: &Place, namespace: Arc<File>, server: IpAddr, log: Log) -> Result<Self, ShimError> {
        let [datagrams, connections] =
            [NAMES_DATAGRAM_PORT, NAMES_STREAM_PORT].map(|port| listen(&place.port(port)));
        let (datagrams, connections) = (datagrams?, connections?);
        let (ends, ended) = oneshot::channel();
        let answer = move || -> io::Result<()> {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            drop(namespace);
            Builder::new_current_thread().enable_all().build()?.block_on(async {
                let server = SocketAddr::new(server, PORT);
                tokio::select! {
                    answered = accept(datagrams, move |guest| ask(guest, server), PATIENCE) => answered,
                    carried = accept(connections, move |guest| carry(guest, server), LONGEST_CONNECTION) => carried,
                    _ = ended => Ok(()),
                }
            })
        };
        let thread = std::thread::Builder::new().name("names".to_owned());
        let until_the_end = move || {
            if let Err(error) = answer() {
                log.warn("", &format!("the guest's questions about names have no answers any more: {error}"));
            }
        };
        thread.spawn(until_the_end).map_err(ShimError::host("start a thread for names"))?;
        Ok(Self { _ends: ends })
    }
}

fn listen(path: &Path) -> Result<Listener, ShimError> {
    let listener = Listener::bind(path).map_err(ShimError::path("listen at", path))?;
    listener.set_nonblocking(true).map_err(ShimError::path("listen at", path))?;
    Ok(listener)
}

/// Serves each of the guest's connections for a bounded time.
async fn accept<F: Future<Output = io::Result<()>> + Send + 'static>(
    listener: Listener,
    serve: impl Fn(UnixStream) -> F,
    patience: Duration,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (guest, _) = listener.accept().await?;
        let served = serve(guest);
        tokio::spawn(async move {
            // Who gets no answer asks again.
            timeout(patience, served).await.ok();
            drop(place);
        });
    }
}

/// One question and its answer.
async fn ask(mut guest: UnixStream, server: SocketAddr) -> io::Result<()> {
    let mut message = vec![0; guest.read_u16().await?.into()];
    guest.read_exact(&mut message).await?;
    let socket = UdpSocket::bind(SocketAddr::new(any(server), 0)).await?;
    socket.connect(server).await?;
    socket.send(&message).await?;
    message.resize(LONGEST, 0);
    let length = socket.recv(&mut message).await?;
    guest.write_u16(u16::try_from(length).map_err(io::Error::other)?).await?;
    guest.write_all(message.get(..length).unwrap_or_default()).await
}

/// The unspecified address of the same family.
fn any(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

async fn carry(mut guest: UnixStream, server: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut guest, &mut server).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_server_is_the_namespaces() {
        let text = "# nameserver 127.0.0.1\nsearch a.example\nnameserver 192.0.2.1\nnameserver\t127.0.0.11\n";
        assert_eq!(on_loopback(text), Some(IpAddr::from([127, 0, 0, 11])));
        assert_eq!(on_loopback("nameserver 192.0.2.1\nnameserver\nnameserver x\n"), None);
    }
}
