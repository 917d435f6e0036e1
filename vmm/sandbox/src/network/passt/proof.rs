//! What passt has to prove before it may carry a sandbox's packets, by frames as a guest could send them: ARP (RFC 826)
//! and UDP over IPv4, behind their length as on every socket of passt's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UdpSocket, UnixStream};

use crate::network::Identity;
use crate::network::subnet::mac;

/// A longer frame is none: passt's largest is a full IP packet in Ethernet.
const LONGEST_FRAME: usize = 65_535 + 14;

/// EtherTypes.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];

/// Speaks to passt as the guest. The flag says that the host's loopback addresses are out of a guest's reach.
pub async fn demand(socket: &mut UnixStream, guest: &Identity) -> io::Result<bool> {
    ask_for_gateway(socket, guest).await?;
    let loopback = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = loopback.local_addr()?.port();
    // Linux takes the unspecified address for the loopback address.
    for target in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        send(socket, &datagram(guest, SocketAddrV4::new(target, port))).await?;
    }
    // passt takes frames by the batch and ARP first; behind the second answer is all that was sent before the first.
    ask_for_gateway(socket, guest).await?;
    ask_for_gateway(socket, guest).await?;
    match loopback.try_recv(&mut [0; 1]) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Asks who has the gateway's address (ARP, RFC 826), and waits for the answer.
async fn ask_for_gateway(socket: &mut UnixStream, guest: &Identity) -> io::Result<()> {
    let gateway = guest.subnet.gateway();
    // Ethernet, IPv4, lengths of their addresses, request.
    let question = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &mac(guest.address).0,
        &guest.address.octets(),
        &[0; 6],
        &gateway.octets(),
    ]
    .concat();
    send(socket, &frame(guest, ARP, &question)).await?;
    let mut length = [0; 4];
    let mut answer = Vec::new();
    loop {
        socket.read_exact(&mut length).await?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answer.resize(length, 0);
        socket.read_exact(&mut answer).await?;
        // Behind the Ethernet header and 14 bytes of ARP the sender's address.
        if answer.get(12..14) == Some(&ARP) && answer.get(28..32) == Some(&gateway.octets()) {
            return Ok(());
        }
    }
}

async fn send(socket: &mut UnixStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    socket.write_all(&[&length.to_be_bytes(), frame].concat()).await
}

/// A frame of the guest's to everybody.
fn frame(guest: &Identity, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &mac(guest.address).0, &kind, payload].concat()
}

/// A datagram of the guest's without data, in its frame.
fn datagram(guest: &Identity, target: SocketAddrV4) -> Vec<u8> {
    // Version and header length, service; total length; identification; no fragment; time to live, UDP; checksum.
    let mut header =
        [&[0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0][..], &guest.address.octets(), &target.ip().octets()]
            .concat();
    let checksum = checksum(&header).to_be_bytes();
    header.splice(10..12, checksum);
    // Source and target port, length, no checksum (RFC 768).
    let udp = [9u16.to_be_bytes(), target.port().to_be_bytes(), 8u16.to_be_bytes(), [0; 2]];
    frame(guest, IPV4, &[&header, udp.as_flattened()].concat())
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks();
    // One's complement addition brings the carry around.
    !words.iter().fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes(*word));
        sum.wrapping_add(carry.into())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Far longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn guest() -> Identity {
        Identity { subnet: "172.30.77.0/24".parse().unwrap(), address: "172.30.77.2".parse().unwrap() }
    }

    /// A passt of the test's own: answers ARP, and passes datagrams on to the addresses in `passes`.
    async fn stand_in(mut socket: UnixStream, passes: &[Ipv4Addr]) {
        let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        while let Ok(length) = socket.read_u32().await {
            let mut frame = vec![0; length.try_into().unwrap()];
            socket.read_exact(&mut frame).await.unwrap();
            if frame[12..14] == ARP {
                let gateway = guest().subnet.gateway();
                let answer = [
                    &frame[6..12],
                    &mac(gateway).0,
                    &ARP,
                    &[0, 1, 8, 0, 6, 4, 0, 2],
                    &mac(gateway).0,
                    &gateway.octets(),
                    &frame[22..32],
                ]
                .concat();
                send(&mut socket, &answer).await.unwrap();
            } else {
                let target = Ipv4Addr::from(*frame[14 + 16..].first_chunk().unwrap());
                let port = u16::from_be_bytes(*frame[14 + 20 + 2..].first_chunk().unwrap());
                if passes.contains(&target) {
                    host.send_to(&[0], (target, port)).await.unwrap();
                }
            }
        }
    }

    async fn proof_of(passes: &'static [Ipv4Addr]) -> io::Result<bool> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let passt = tokio::spawn(stand_in(theirs, passes));
        let proof = timeout(PATIENCE, demand(&mut ours, &guest())).await.unwrap();
        drop(ours);
        passt.await.unwrap();
        proof
    }

    #[tokio::test]
    async fn a_passt_that_leads_to_the_hosts_loopback_is_found_out() {
        assert!(proof_of(&[]).await.unwrap());
        assert!(!proof_of(&[Ipv4Addr::LOCALHOST]).await.unwrap());
        assert!(!proof_of(&[Ipv4Addr::UNSPECIFIED]).await.unwrap());
    }

    #[tokio::test]
    async fn a_passt_that_ends_proves_nothing() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        demand(&mut ours, &guest()).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_frame_of_any_length_is_not_waited_for() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0xff; 8]).await.unwrap();
        let error = demand(&mut ours, &guest()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let datagram = datagram(&guest(), "127.0.0.1:9".parse().unwrap());
        assert_eq!(checksum(&datagram[14..34]), 0);
    }
}
