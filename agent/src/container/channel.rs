//! Between the agent and the processes that it has make containers: orders one way, answers the other.
//!
//! One SOCK_SEQPACKET socket carries both, and the descriptors that belong to them. An order is too large for a
//! packet (a seccomp filter, an environment), so it lies in a memory file. The process that becomes the user's
//! program holds the last copy of its end, closed by exec: the end of the stream says that the program runs.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt, socketpair,
    sockopt,
};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::plan::process::ProcessPlan;

/// What a process of the runtime is to do. The descriptors come in the order of the fields' comments.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Make a container. Descriptors: the group's directory; standard input, output and error, if there is no
    /// terminal.
    Create(Box<Plan>),
    /// Make a process of a container. Descriptors: the group's directory; the pidfd of its first process; and as
    /// with `Create`.
    Execute {
        /// CLONE_NEW* of those it joins.
        namespaces: i32,
        /// The process.
        process: Box<ProcessPlan>,
    },
}

/// How far it is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The process is there. Descriptor: its pidfd.
    Made {
        /// Its number, where the agent is.
        pid: u32,
    },
    /// It is as it should be, and waits. Descriptor: the terminal's master, if it has one.
    Ready,
    /// Something failed; it ends.
    Failed {
        /// What was attempted, on what.
        step: String,
        /// Why it failed.
        errno: i32,
    },
    /// The program cannot be executed; the process ends.
    NotExecuted {
        /// Why not.
        errno: i32,
    },
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// No answer is larger: a step has a path or two in it.
const PACKET: usize = 16 * 1024;
/// No packet has more descriptors.
const DESCRIPTORS: usize = 6;
/// Seconds that a step of the other side may take. A file system that a host serves can be slow.
const PATIENCE: i64 = 30;

impl Channel {
    /// Both ends: the agent's, and the other one.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok((Self { socket: ours }, theirs))
    }

    /// The end that is `socket`.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Gives an order.
    pub fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut file = File::from(memfd_create(c"order", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(order)?)?;
        file.rewind()?;
        let mut all = vec![file.as_fd()];
        all.extend_from_slice(descriptors);
        self.send(b"order", &all)
    }

    /// The order that was given, and its descriptors.
    pub fn take_order(&self) -> io::Result<(Order, Vec<OwnedFd>)> {
        let (_, mut descriptors) = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if descriptors.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let file = File::from(descriptors.remove(0));
        Ok((parse(&io::read_to_string(file)?)?, descriptors))
    }

    /// Answers.
    pub fn answer(&self, answer: &Answer, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(&serde_json::to_vec(answer)?, descriptor.as_slice())
    }

    /// The next answer and its descriptor; `None`: all that hold the other end are gone.
    pub fn next_answer(&self) -> io::Result<Option<(Answer, Option<OwnedFd>)>> {
        let Some((packet, descriptors)) = self.receive()? else {
            return Ok(None);
        };
        let text = str::from_utf8(&packet).map_err(io::Error::other)?;
        Ok(Some((parse(text)?, descriptors.into_iter().next())))
    }

    /// Lets the other side go on.
    pub fn let_go(&self) -> io::Result<()> {
        self.send(b"go", &[])
    }

    /// Waits until the other side lets go; `false`: it is gone.
    pub fn wait_to_go(&self) -> io::Result<bool> {
        Ok(self.receive()?.is_some())
    }

    fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let packet = [IoSlice::new(packet)];
        sendmsg::<()>(self.socket.as_raw_fd(), &packet, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// The next packet; `None` at the end.
    fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut packet = vec![0; PACKET];
        let mut control = cmsg_space!([i32; DESCRIPTORS]);
        let (length, descriptors) = loop {
            let mut slices = [IoSliceMut::new(&mut packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
                Ok(message) => break (message.bytes, super::sys::received(message.cmsgs()?)),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        };
        packet.truncate(length);
        Ok((length > 0).then_some((packet, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> io::Result<T> {
    serde_json::from_str(text).map_err(io::Error::from)
}
