//! A name server of the host's network that programs know by a loopback address: Docker's is 127.0.0.11, in the
//! container's network namespace. That namespace is on the host, and so is its loopback interface. In the guest this
//! listens in its place, and takes every question to the host, which asks there.
//!
//! A datagram goes as a message of DNS over TCP, behind its length (RFC 1035, 4.2.2), on a connection of its own; a
//! connection goes as it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rvm_agent_proto::{NAMES_DATAGRAM_PORT, NAMES_STREAM_PORT};
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::refusal::Refusal;

/// Where name servers answer.
const PORT: u16 = 53;
/// Questions and connections at a time; what is more waits, or is lost as datagrams are.
const MOST: usize = 64;
/// Longest question in a datagram; more than any resolver sends.
const LONGEST: usize = 4096;
/// A resolver asks again before.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time of a connection.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);

/// The name server in the guest; without it, nobody answers.
#[derive(Debug)]
pub struct Resolver {
    address: IpAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Reads the address of a name server in the guest: a loopback address.
pub fn parse(text: &str) -> Result<IpAddr, Refusal> {
    let refuse = |reason| Refusal::invalid(format!("the name server {text:?}"), reason);
    let address: IpAddr = text.parse().map_err(|_| refuse("it is no address"))?;
    match address.is_loopback() {
        true => Ok(address),
        false => Err(refuse("it is no loopback address: programs reach it by the network")),
    }
}

impl Resolver {
    /// Listens at this address.
    pub fn at(address: IpAddr) -> Result<Self, Refusal> {
        let at = SocketAddr::new(address, PORT);
        let (datagrams, connections) =
            listen(at).map_err(Refusal::kernel(|| format!("listen at {at} for questions about names")))?;
        let places = Arc::new(Semaphore::new(MOST));
        let tasks = [
            tokio::spawn(answer_datagrams(datagrams, places.clone())),
            tokio::spawn(carry_connections(connections, places)),
        ];
        Ok(Self { address, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

fn listen(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let (datagrams, connections) = (std::net::UdpSocket::bind(at)?, std::net::TcpListener::bind(at)?);
    datagrams.set_nonblocking(true)?;
    connections.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(datagrams)?, TcpListener::from_std(connections)?))
}

async fn answer_datagrams(socket: UdpSocket, places: Arc<Semaphore>) {
    let socket = Arc::new(socket);
    let mut question = vec![0; LONGEST];
    loop {
        // An error is one of an earlier answer, whose receiver is gone.
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (question, socket) = (question.get(..length).unwrap_or_default().to_vec(), socket.clone());
        tokio::spawn(async move {
            // Without an answer, the program asks again.
            if let Ok(Ok(answer)) = timeout(PATIENCE, ask(&question)).await {
                socket.send_to(&answer, from).await.ok();
            }
            drop(place);
        });
    }
}

async fn ask(question: &[u8]) -> io::Result<Vec<u8>> {
    let mut host = Descriptor::to_host(NAMES_DATAGRAM_PORT).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    host.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; host.read_u16().await?.into()];
    host.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn carry_connections(listener: TcpListener, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        // A connection that failed is not the listener's end.
        let Ok((connection, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            timeout(LONGEST_CONNECTION, carry(connection)).await.ok();
            drop(place);
        });
    }
}

async fn carry(mut connection: TcpStream) -> io::Result<()> {
    let mut host = Descriptor::to_host(NAMES_STREAM_PORT).await?;
    copy_bidirectional(&mut connection, &mut host).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::parse;

    #[test]
    fn only_loopback_addresses_are_listened_at() {
        assert_eq!(parse("127.0.0.11").unwrap().to_string(), "127.0.0.11");
        for text in ["", "localhost", "10.0.0.1", "0.0.0.0", "127.0.0.11:53"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
