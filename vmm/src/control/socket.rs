//! Packets on a Unix socket of type SOCK_SEQPACKET, with the descriptors that come along.

#![allow(unsafe_code, reason = "numbers that the kernel hands over become descriptors")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockType, recvmsg, send};
use rvm_config::control::MAX_CONTROL_PACKET;

use super::ControlError;
use crate::inherited;

/// Most descriptors that the kernel passes with one packet (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;

/// A connected packet socket. Nothing here waits for the other end but [`Self::wait_writable`].
pub struct PacketSocket(OwnedFd);

/// What one look at the socket gave.
#[derive(Debug)]
pub enum Received {
    /// A packet.
    Packet {
        /// Its bytes.
        bytes: Vec<u8>,
        /// The descriptors that came with it.
        descriptors: Vec<OwnedFd>,
    },
    /// A packet that is too long, or came with more descriptors than this process may have. It is gone.
    Cut,
    /// There is none now.
    Nothing,
    /// There will be none: the other end is closed. An empty packet says the same.
    Closed,
}

impl PacketSocket {
    /// The inherited socket `fd`.
    pub fn inherited(fd: RawFd) -> Result<Self, ControlError> {
        let socket = inherited::connected_socket(fd, SockType::SeqPacket)
            .map_err(|source| ControlError::Descriptor { fd, source })?;
        socket.map(Self).ok_or(ControlError::WrongType(fd))
    }

    /// Sends a packet: all of it, or `WouldBlock`.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(|_| ())?),
            }
        }
    }

    /// Waits until a packet can be sent, or that fails for good; at most `timeout`.
    pub fn wait_writable(&self, timeout: PollTimeout) {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        // The sending that follows says what came of it.
        poll(&mut fds, timeout).ok();
    }

    /// Takes the next packet.
    pub fn receive(&self) -> io::Result<Received> {
        let mut bytes = vec![0; MAX_CONTROL_PACKET];
        let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut buffers, Some(&mut space), flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            message => message?,
        };
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has made these descriptors for this process just now.
                let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
                descriptors.extend(numbers.into_iter().map(own));
            }
        }
        let (length, flags) = (message.bytes, message.flags);
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Ok(Received::Cut);
        }
        bytes.truncate(length);
        Ok(if length == 0 { Received::Closed } else { Received::Packet { bytes, descriptors } })
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
pub mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Read, Seek, Write};

    use nix::sys::socket::{AddressFamily, ControlMessage, SockFlag, sendmsg, socketpair};

    use super::*;

    /// A socket and its other end.
    pub fn pair() -> (PacketSocket, PacketSocket) {
        let (family, flags) = (AddressFamily::Unix, SockFlag::SOCK_CLOEXEC);
        let (one, other) = socketpair(family, SockType::SeqPacket, None, flags).unwrap();
        (PacketSocket(one), PacketSocket(other))
    }

    /// Sends a packet with descriptors.
    pub fn send_with(socket: &PacketSocket, packet: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let packet = [IoSlice::new(packet)];
        sendmsg::<()>(socket.as_raw_fd(), &packet, &rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn packets_come_as_they_were_sent_with_their_descriptors() {
        let (ours, theirs) = pair();
        assert!(matches!(ours.receive().unwrap(), Received::Nothing));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"contents").unwrap();
        send_with(&theirs, b"first", &[file.as_raw_fd(), file.as_raw_fd()]);
        theirs.send(b"second").unwrap();
        let Received::Packet { bytes, descriptors } = ours.receive().unwrap() else { panic!("a packet") };
        assert_eq!((&bytes[..], descriptors.len()), (&b"first"[..], 2));
        let mut received = File::from(descriptors.into_iter().next().unwrap());
        let mut contents = String::new();
        received.rewind().unwrap();
        received.read_to_string(&mut contents).unwrap();
        assert_eq!(contents, "contents");
        let Received::Packet { bytes, descriptors } = ours.receive().unwrap() else { panic!("a packet") };
        assert_eq!((&bytes[..], descriptors.len()), (&b"second"[..], 0));
        drop(theirs);
        assert!(matches!(ours.receive().unwrap(), Received::Closed));
        assert_eq!(ours.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_packet_that_is_too_long_is_told_apart_and_the_next_one_comes() {
        let (ours, theirs) = pair();
        for (length, fits) in [(MAX_CONTROL_PACKET, true), (MAX_CONTROL_PACKET + 1, false), (1, true)] {
            theirs.send(&vec![b'x'; length]).unwrap();
            let received = ours.receive().unwrap();
            assert_eq!(matches!(received, Received::Packet { bytes, .. } if bytes.len() == length), fits);
        }
    }

    #[test]
    fn what_is_no_connected_packet_socket_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let unconnected =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None)
                .unwrap();
        let stream = std::os::unix::net::UnixStream::pair().unwrap();
        let refusal = |fd| PacketSocket::inherited(fd).err().expect("it is refused");
        assert!(matches!(refusal(file.as_raw_fd()), ControlError::Descriptor { .. }));
        assert!(matches!(refusal(1 << 20), ControlError::Descriptor { .. }));
        assert!(matches!(refusal(unconnected.as_raw_fd()), ControlError::WrongType(_)));
        assert!(matches!(refusal(stream.0.as_raw_fd()), ControlError::WrongType(_)));
    }
}
