//! Messages of rtnetlink(7), and the kernel's answers to them.
//!
//! Only what changes something: each message asks for an acknowledgement, which is one error number.

use std::io;
use std::os::fd::OwnedFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::{read, write};

/// Bytes of a struct nlmsghdr, and where its length is: it comes first.
const HEADER: usize = 16;
/// Everything in a message begins at a multiple of this.
const ALIGNMENT: usize = 4;
/// More than an acknowledgement, which repeats the message that it is for.
const ANSWER: usize = 4096;

/// A request for a change.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// Sets something, whether it is there already or not.
    pub fn to_set(kind: u16) -> Self {
        Self::new(kind, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
    }

    /// Changes what is there.
    pub fn to_change(kind: u16) -> Self {
        Self::new(kind, 0)
    }

    fn new(kind: u16, flags: libc::c_int) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
        // struct nlmsghdr: length (known when it is sent), kind, flags, sequence number, sender.
        Self([0; 4].into()).bytes(&kind.to_ne_bytes()).bytes(&flags.to_ne_bytes()).bytes(&[0; 8])
    }

    /// Adds bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute: its length, its kind, its value, and padding.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Values are addresses, numbers and names of interfaces.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self = self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// The message with its length.
    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        self.0
    }
}

/// A socket on which the kernel answers before the next message.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Sends a message and takes the kernel's answer.
    pub fn ask(&self, message: Message) -> io::Result<()> {
        write(&self.0, &message.finish())?;
        let mut answer = [0; ANSWER];
        let length = read(&self.0, &mut answer)?;
        error_in(answer.get(..length).unwrap_or_default())
    }
}

/// What an NLMSG_ERROR says: behind its header there is 0, or a negative error number.
fn error_in(answer: &[u8]) -> io::Result<()> {
    let number =
        answer.get(HEADER..).and_then(|body| body.first_chunk()).map(|body| i32::from_ne_bytes(*body));
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Message, Socket, error_in};
    use nix::errno::Errno;

    #[test]
    fn a_message_knows_its_length_and_its_attributes_are_padded() {
        let message = Message::to_change(16).bytes(&[0; 4]).attribute(3, b"eth01").finish();
        assert_eq!(message.len(), 16 + 4 + 4 + 8);
        assert_eq!(message[..4], 32u32.to_ne_bytes());
        assert_eq!(message[20..24], [9, 0, 3, 0]);
        assert_eq!(&message[24..], b"eth01\0\0\0");
    }

    #[test]
    fn the_kernel_answers_with_an_error_number() {
        // RTM_NEWLINK for an interface that nobody has.
        let nobody = Message::to_change(16).bytes(&[0; 4]).bytes(&i32::MAX.to_ne_bytes()).bytes(&[0; 8]);
        let err = Socket::open().unwrap().ask(nobody).unwrap_err();
        let number = Errno::from_raw(err.raw_os_error().unwrap());
        assert!([Errno::ENODEV, Errno::EPERM].contains(&number), "{err}");
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        assert!(error_in(&[0; 19]).is_err());
        assert!(error_in(&[0; 20]).is_ok());
    }
}
