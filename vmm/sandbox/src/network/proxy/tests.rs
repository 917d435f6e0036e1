#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn publish(protocol: Protocol, guest_port: u16) -> Publish {
    Publish { host_ip: Some(LOOPBACK), host_port: 0, guest_port, protocol }
}

/// A proxy for a service of the test's at `guest_port` of this machine, and where it listens.
async fn proxy(protocol: Protocol, guest_port: u16) -> (Proxy, SocketAddr) {
    let (proxy, published) = Proxy::start(&[publish(protocol, guest_port)], LOOPBACK).await.unwrap();
    (proxy, published[0].host)
}

async fn service() -> (TcpListener, u16) {
    let service = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    (service, port)
}

async fn udp_service() -> (UdpSocket, u16) {
    let service = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    (service, port)
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (service, port) = service().await;
    let (_proxy, host) = proxy(Protocol::Tcp, port).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let (mut guest, _) = service.accept().await.unwrap();

    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    guest.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");

    guest.write_all(b"answer").await.unwrap();
    drop(guest);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_client_is_told_by_a_close_that_nobody_listens_in_the_sandbox() {
    let (service, port) = service().await;
    drop(service);
    let (_proxy, host) = proxy(Protocol::Tcp, port).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let read = timeout(PATIENCE, client.read_u8()).await.expect("the connection is closed");
    assert!(read.is_err());
}

#[tokio::test]
async fn a_reader_that_waits_holds_the_writer_up() {
    let (service, port) = service().await;
    let (_proxy, host) = proxy(Protocol::Tcp, port).await;
    let client = TcpStream::connect(host).await.unwrap();
    let (mut guest, _) = service.accept().await.unwrap();

    let block = vec![7; 1 << 20];
    let mut sent = 0;
    // What fits is in the buffers of sockets (a few MiB each) and of the proxy; then nothing more does.
    while let Ok(writable) = timeout(Duration::from_millis(200), client.writable()).await {
        writable.unwrap();
        sent += client.try_write(&block).unwrap_or(0);
        assert!(sent < 64 << 20, "{sent} bytes are on the way and nobody reads");
    }
    drop(client);
    let mut received = Vec::new();
    guest.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), sent);
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_by_name_and_nothing_is_published() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let (free, port) = service().await;
    drop(free);
    let mut ports = [publish(Protocol::Tcp, 80), publish(Protocol::Tcp, 81)];
    ports[0].host_port = port;
    ports[1].host_port = taken.local_addr().unwrap().port();
    let error = Proxy::start(&ports, LOOPBACK).await.err().expect("the port is taken");
    let expected = format!(
        "cannot publish port 81 at {}/tcp: something else listens there; end that, or choose another port",
        taken.local_addr().unwrap()
    );
    assert_eq!(error.to_string(), expected);
    TcpListener::bind((LOOPBACK, port)).await.expect("the first port is free again");
}

#[tokio::test]
async fn the_end_closes_ports_and_connections() {
    let (service, port) = service().await;
    let (proxy, host) = proxy(Protocol::Tcp, port).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let (_guest, _) = service.accept().await.unwrap();
    proxy.stop().await;
    assert!(client.read_u8().await.is_err());
    assert!(TcpStream::connect(host).await.is_err());
}

#[tokio::test]
async fn answers_find_the_client_that_asked() {
    let (service, port) = udp_service().await;
    let (_proxy, host) = proxy(Protocol::Udp, port).await;
    let (one, other) = (udp_service().await.0, udp_service().await.0);
    one.send_to(b"one", host).await.unwrap();
    other.send_to(b"other", host).await.unwrap();
    let mut buffer = [0; 16];
    for _ in 0..2 {
        let (length, session) = service.recv_from(&mut buffer).await.unwrap();
        service.send_to(&buffer[..length], session).await.unwrap();
    }
    for (client, expected) in [(&one, &b"one"[..]), (&other, b"other")] {
        let (length, from) = timeout(PATIENCE, client.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], from), (expected, host));
    }
}

#[tokio::test]
async fn clients_for_whom_there_is_no_place_wait_for_others_to_be_idle() {
    let (service, port) = udp_service().await;
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let host = socket.local_addr().unwrap();
    let idle = Duration::from_millis(300);
    let serving =
        tokio::spawn(udp::serve(socket, (LOOPBACK, port).into(), Arc::new(Semaphore::new(1)), idle));
    let (first, second) = (udp_service().await.0, udp_service().await.0);
    let mut buffer = [0; 16];

    first.send_to(b"first", host).await.unwrap();
    let (_, session) = service.recv_from(&mut buffer).await.unwrap();
    second.send_to(b"second", host).await.unwrap();
    first.send_to(b"again", host).await.unwrap();
    let (length, from) = service.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"again"[..], session));

    // Asks until the first one's session has ended.
    let heard = async {
        loop {
            second.send_to(b"second", host).await.unwrap();
            if let Ok(received) = timeout(Duration::from_millis(50), service.recv_from(&mut buffer)).await {
                return received.unwrap().1;
            }
        }
    };
    assert_ne!(timeout(PATIENCE, heard).await.expect("the place is free"), session);
    serving.abort();
}
