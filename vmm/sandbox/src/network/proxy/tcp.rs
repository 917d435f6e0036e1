//! A published TCP port.
//!
//! Each connection is two buffers of [`BUFFER`] and as much as the kernel's sockets hold: who is not read from waits.
//! The end of one direction is passed on and the other goes on. Connections for which there is no place wait in the
//! kernel's queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes carried at a time in one direction.
const BUFFER: usize = 32 << 10;

/// How long to wait when the host is out of descriptors or memory, before the next connection is accepted.
const RESPITE: Duration = Duration::from_millis(100);

/// Accepts connections, each in one of `places`, and carries them to `target`, until aborted.
pub async fn serve(listener: TcpListener, target: SocketAddr, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // The semaphore is never closed.
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                connections.spawn(async move {
                    carry(client, target).await;
                    drop(place);
                });
            }
            // Either that connection is gone already, or resources are short.
            Err(_) => tokio::time::sleep(RESPITE).await,
        }
    }
}

/// Carries one connection until both directions ended, or one failed. Then, or if nobody listens in the sandbox, the
/// client's connection is closed: that is all that can be told to it.
async fn carry(mut client: TcpStream, target: SocketAddr) {
    let Ok(mut guest) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&client, &guest] {
        // Small packets are only slower where this is refused.
        let _ = stream.set_nodelay(true);
    }
    // Both ends see what happened: the one that failed, and the other by its close.
    let _ = copy_bidirectional_with_sizes(&mut client, &mut guest, BUFFER, BUFFER).await;
}
