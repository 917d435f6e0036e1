//! Netlink: how the kernel is asked about links, addresses and nftables, and told to change them.
//!
//! Only the messages themselves, netlink(7): a header, a fixed part that depends on the kind of message, attributes.
//! What they mean is in [`super::link`] and [`super::firewall`]. A handful of requests does not pay for a library of
//! every message there is.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

/// `struct nlmsghdr`: length, kind, flags, sequence number, port.
const HEADER: usize = 16;
/// `struct nlattr`: length, kind.
const ATTRIBUTE: usize = 4;

/// Kinds of messages that every family has (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Makes what is not there.
pub const NLM_F_CREATE: u16 = 0x400;
/// Fails where it is there.
pub const NLM_F_EXCL: u16 = 0x200;

/// The kind of an attribute without the bits that say how its value is written.
const KIND_MASK: u16 = 0x3fff;
/// NLA_F_NESTED: the value is made of attributes.
const NESTED: u16 = 0x8000;

/// More than the kernel puts into one datagram of an answer (NLMSG_GOODSIZE).
const DATAGRAM: usize = 32 << 10;

/// A connection to the kernel.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One request.
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Netlink {
    /// For links and addresses, rtnetlink(7), in the network namespace of this thread.
    pub fn route() -> io::Result<Self> {
        Self::connect(SockProtocol::NetlinkRoute)
    }

    /// For netfilter, likewise.
    pub fn netfilter() -> io::Result<Self> {
        Self::connect(SockProtocol::NetlinkNetFilter)
    }

    fn connect(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has the kernel do `message`; its refusal is the error.
    pub fn apply(&mut self, message: Message) -> io::Result<()> {
        self.exchange(&[message.acknowledged()]).map(drop)
    }

    /// Asks for one thing: the bodies of the answer, which may be none.
    pub fn ask(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(&[message.acknowledged()])
    }

    /// Asks for all things of a kind: the body of the message about each.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(&[message.with(NLM_F_DUMP)])
    }

    /// Sends messages of which exactly one is acknowledged, and waits for that.
    pub fn exchange(&mut self, messages: &[Message]) -> io::Result<Vec<Vec<u8>>> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.write(&mut datagram, self.sequence);
        }
        send(self.socket.as_raw_fd(), &datagram, MsgFlags::empty())?;
        let count = self.sequence.wrapping_sub(first);
        let mut answers = Vec::new();
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                let ours = sequence.wrapping_sub(first) <= count;
                match kind {
                    _ if !ours => {}
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => return errno(body).map(|()| answers),
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }
}

impl Message {
    /// A message of this kind with its fixed part.
    pub fn new(kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: NLM_F_REQUEST, body: fixed.to_vec() }
    }

    /// With more NLM_F_*.
    pub fn with(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// That the kernel is to answer.
    pub fn acknowledged(self) -> Self {
        self.with(NLM_F_ACK)
    }

    /// With one more attribute.
    pub fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.append(&attribute(kind, value))
    }

    /// With more attributes, written already.
    pub fn append(mut self, attributes: &[u8]) -> Self {
        self.body.extend(attributes);
        self
    }

    fn write(&self, datagram: &mut Vec<u8>, sequence: u32) {
        let length = u32::try_from(HEADER + self.body.len()).expect("requests are short");
        datagram.extend(length.to_ne_bytes());
        datagram.extend(self.kind.to_ne_bytes());
        datagram.extend((self.flags).to_ne_bytes());
        datagram.extend(sequence.to_ne_bytes());
        // The kernel knows the sender's port.
        datagram.extend(0u32.to_ne_bytes());
        datagram.extend(&self.body);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }
}

/// An attribute with its padding.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).expect("values of requests are below 64 KiB");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute whose value is made of attributes.
pub fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

/// A name as attributes have it.
pub fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// The value of the first attribute of this kind in `attributes`.
pub fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & KIND_MASK;
        let value = attributes.get(ATTRIBUTE..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Takes the next message off `rest`: its kind, sequence number and body.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    let body = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body))
}

/// What an NLMSG_ERROR says: 0 is an acknowledgement.
fn errno(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(negative) => Err(io::Error::from_raw_os_error(-negative)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_of_any_length() {
        let attributes = [attribute(1, b"abcde"), attribute(2, b""), attribute(3 | 0x8000, b"x")].concat();
        assert_eq!(find(&attributes, 1), Some(&b"abcde"[..]));
        assert_eq!(find(&attributes, 2), Some(&b""[..]));
        assert_eq!(find(&attributes, 3), Some(&b"x"[..]));
        assert_eq!(find(&attributes, 4), None);
    }

    #[test]
    fn an_attribute_that_claims_more_than_there_is_ends_the_search() {
        let mut cut = attribute(1, b"abcd");
        cut.pop();
        assert_eq!(find(&cut, 1), None);
        assert_eq!(find(&[0, 0, 9, 0, 4, 0], 1), None);
    }

    #[test]
    fn the_kernel_tells_of_the_loopback_link() {
        let mut netlink = Netlink::route().expect("a netlink socket");
        let all = netlink.dump(Message::new(libc::RTM_GETLINK, &[0; 16])).expect("the links");
        let names: Vec<_> = all.iter().filter_map(|link| find(link.get(16..)?, libc::IFLA_IFNAME)).collect();
        assert!(names.contains(&&b"lo\0"[..]), "{names:?}");
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error() {
        let mut netlink = Netlink::route().expect("a netlink socket");
        let missing =
            Message::new(libc::RTM_GETLINK, &[0; 16]).attribute(libc::IFLA_IFNAME, &text("nosuchlink"));
        let error = netlink.ask(missing).expect_err("there is no such link");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
