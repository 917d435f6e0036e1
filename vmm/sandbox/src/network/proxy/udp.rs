//! A published UDP port.
//!
//! Every client that sends has a session: a socket of its own to the sandbox, by which answers find back. A session
//! ends when nothing came or went for [`IDLE`]. Datagrams of clients for which there is no place are lost, as datagrams
//! may be, and so are those for which a session has no room.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Datagrams of one client that wait for being sent on.
const MOST_WAITING: usize = 16;

/// How long a session lasts without a datagram; the time that Linux's connection tracking gives an answered one.
pub const IDLE: Duration = Duration::from_secs(120);

/// The longest UDP datagram.
const LONGEST: usize = 65_535;

/// How long to wait when the host is out of memory, before the next datagram is received.
const RESPITE: Duration = Duration::from_millis(100);

/// Receives datagrams and carries them to and from `target`, each client's in one of `places`, until aborted.
pub async fn serve(socket: UdpSocket, target: SocketAddr, places: Arc<Semaphore>, idle: Duration) {
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // That of an earlier answer: the client is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(_) => {
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        let mut datagram = buffer.get(..length).unwrap_or_default().to_vec();
        if let Some(session) = sessions.get(&client) {
            match session.try_send(datagram) {
                Ok(()) | Err(TrySendError::Full(_)) => continue,
                // It was idle for too long and has ended.
                Err(TrySendError::Closed(unsent)) => datagram = unsent,
            }
        }
        sessions.retain(|_, session| !session.is_closed());
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (to_session, from_host) = mpsc::channel(MOST_WAITING);
        // It is empty and has room.
        let _ = to_session.try_send(datagram);
        sessions.insert(client, to_session);
        let host = Arc::clone(&socket);
        tasks.spawn(async move {
            session(host, client, target, from_host, idle).await;
            drop(place);
        });
    }
}

/// Carries the datagrams of one client until none comes for a while.
async fn session(
    host: Arc<UdpSocket>,
    client: SocketAddr,
    target: SocketAddr,
    mut from_host: mpsc::Receiver<Vec<u8>>,
    idle: Duration,
) {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Without a socket the datagram is lost, and the next one tries again.
    let Ok(guest) = UdpSocket::bind(any).await else { return };
    let Ok(()) = guest.connect(target).await else { return };
    let mut answer = vec![0; LONGEST];
    loop {
        let step = async {
            tokio::select! {
                datagram = from_host.recv() => match datagram {
                    // Refusals are those of an earlier datagram: nobody listens in the sandbox, yet.
                    Some(datagram) => { let _ = guest.send(&datagram).await; }
                    None => return false,
                },
                received = guest.recv(&mut answer) => if let Ok(length) = received {
                    // What the client's network refuses is lost, as on any way of a datagram.
                    let _ = host.send_to(answer.get(..length).unwrap_or_default(), client).await;
                },
            }
            true
        };
        match timeout(idle, step).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}
