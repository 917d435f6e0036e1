//! Connections of the host's to TCP ports of the guest, as `agent.proto` has them under `Dial`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use rvm_agent_proto::DialRequest;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tonic::Status;

use crate::refusal::Refusal;
use crate::streams::{Streams, no_stream};

/// Connects a port with a stream.
pub async fn dial(streams: &Streams, request: DialRequest) -> Result<(), Status> {
    let port = u16::try_from(request.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| {
        Refusal::invalid(format!("port {}", request.port), "ports of TCP are from 1 to 65535")
    })?;
    let mut stream = streams.claim(request.stream).await.map_err(no_stream)?;
    let mut connection = connect(port).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Refusal::Absent(format!("listener at port {port} of the guest")),
        _ => Refusal::kernel(|| format!("connect to port {port} of the guest"))(error),
    })?;
    tokio::spawn(async move {
        // An end that is an error is one as well.
        copy_bidirectional(&mut connection, &mut stream).await.ok();
    });
    Ok(())
}

/// Connects to the port at the first of the guest's addresses where somebody listens; the error is that at the first.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let first = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    for address in std::iter::once(Ipv6Addr::LOCALHOST.into()).chain(own_addresses()) {
        if let Ok(connection) = TcpStream::connect(SocketAddr::new(address, port)).await {
            return Ok(connection);
        }
    }
    Err(first)
}

/// Addresses of the guest beyond its own loopback ones. Those of one link alone are nobody's to name.
fn own_addresses() -> Vec<IpAddr> {
    let addresses = getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let addresses = addresses.filter_map(|address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses.filter(|address| !address.is_loopback() && !is_link_local(address)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_listens_at_one_address_is_found_and_who_does_not_is_not() {
        for address in std::iter::once(IpAddr::from(Ipv4Addr::LOCALHOST)).chain(own_addresses()) {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(connect(port).await.unwrap().peer_addr().unwrap().ip(), address);
            drop(listener);
            assert_eq!(connect(port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
