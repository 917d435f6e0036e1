//! One connection: where it stands, what the next packet to the guest is, and when it is over.
//!
//! ```text
//!  program connects                          guest: REQUEST
//!        │                                         │ connected to <socket>_<port>
//!        ▼                                         ▼
//!     Calling ── "CONNECT port" ─> Requesting   Answering
//!                                      │ guest:    │ RESPONSE sent
//!                                      │ RESPONSE  ▼
//!                                      └───────> Open ── both SHUTDOWN flags sent ──> Closing
//!                                                 │                                     │ guest: RST
//!        guest: RST, data is left for the program ▼                                     ▼
//!                                              Draining ── the program has it ───────> gone
//! ```
//!
//! An end never overtakes data: the guest hears that the program is done after it has everything the program
//! sent, and the program sees the end of the stream after it has everything the guest sent, even if the guest
//! has long forgotten the connection. Each direction can end alone. When the guest is done both ways, RST
//! confirms it once the program has everything (virtio 1.2, section 5.10.6.6).

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::buffers::Buffers;
use super::chains::Packet;
use super::packet::{HOST_CID, Header, NO_MORE, NO_RECEIVE, NO_SEND, Op, STREAM};
use super::to_guest::{Received, ToGuest};
use super::to_host::{ToHost, Violation};
use super::vectored;

/// What tells connections apart: there is one guest and one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// At the host.
    pub host: u32,
    /// In the guest.
    pub guest: u32,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A program connected and has yet to say to which port of the guest.
    Calling,
    /// The guest has to answer the program's call.
    Requesting {
        /// REQUEST is on its way.
        sent: bool,
    },
    /// The guest's request is granted; RESPONSE has to be sent.
    Answering,
    /// Both sides may send.
    Open,
    /// Neither side sends any more; the guest has to confirm it.
    Closing,
    /// The guest has forgotten the connection; what it sent still has to reach the program.
    Draining,
}

/// The next packet to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A header alone, with SHUTDOWN's flags.
    Control(Op, u32),
    /// What the program sends.
    Data,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does.
    Stays,
    /// It is over, and the guest knows or does not care.
    Over,
    /// It is over, which the guest is to hear by RST.
    OverWithReset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The program's socket, non-blocking.
    pub socket: UnixStream,
    /// The ports; in [`Phase::Calling`] they are not known yet.
    pub ports: Ports,
    /// Where it stands.
    pub phase: Phase,
    /// When the phase ends if nothing happens.
    pub deadline: Option<Instant>,
    /// It is in the list of those that have something for the guest.
    pub listed: bool,
    /// The stream to the program.
    pub to_host: ToHost,
    /// The stream to the guest.
    pub to_guest: ToGuest,
    /// SHUTDOWN flags that the guest sent.
    guest_flags: u32,
    /// SHUTDOWN flags that were sent to the guest.
    sent_flags: u32,
    /// The guest asked for a CREDIT_UPDATE.
    credit_asked: bool,
}

impl Connection {
    /// A connection in `phase` with the program behind `socket`, keeping up to `window` bytes for it.
    pub fn new(socket: UnixStream, phase: Phase, window: u32) -> Self {
        let (ports, to_host, to_guest) = (Ports::default(), ToHost::new(window), ToGuest::new());
        let (deadline, listed, guest_flags, sent_flags, credit_asked) = (None, false, 0, 0, false);
        Self {
            socket,
            ports,
            phase,
            deadline,
            listed,
            to_host,
            to_guest,
            guest_flags,
            sent_flags,
            credit_asked,
        }
    }

    /// The next packet to the guest, if there is one to send now.
    pub fn next(&self) -> Option<Next> {
        match self.phase {
            Phase::Requesting { sent: false } => Some(Next::Control(Op::Request, 0)),
            Phase::Answering => Some(Next::Control(Op::Response, 0)),
            Phase::Open => self.next_when_open(),
            Phase::Calling | Phase::Requesting { sent: true } | Phase::Closing | Phase::Draining => None,
        }
    }

    fn next_when_open(&self) -> Option<Next> {
        let flags = self.shutdown_flags();
        if self.to_guest.can_send() {
            Some(Next::Data)
        } else if flags & !self.sent_flags != 0 {
            Some(Next::Control(Op::Shutdown, flags))
        } else if self.credit_asked || self.to_host.credit_is_due() {
            Some(Next::Control(Op::CreditUpdate, 0))
        } else if self.to_guest.lacks_credit() {
            Some(Next::Control(Op::CreditRequest, 0))
        } else {
            None
        }
    }

    /// What the guest has to know about ends of streams that it did not ask for.
    fn shutdown_flags(&self) -> u32 {
        if self.guest_flags == NO_MORE {
            return 0;
        }
        let no_send = self.to_guest.has_ended();
        let no_receive = self.to_host.is_closed() && (no_send || self.guest_flags & NO_SEND == 0);
        let flag = |flag, set| if set { flag } else { 0 };
        flag(NO_SEND, no_send) | flag(NO_RECEIVE, no_receive)
    }

    /// The header of a packet that goes to the guest, whose identifier is `cid`; with it the guest knows how far
    /// its data went.
    pub fn header(&mut self, cid: u32, op: Op, flags: u32) -> Header {
        let (buf_alloc, fwd_cnt) = self.to_host.tell();
        self.credit_asked = false;
        let Ports { host: src_port, guest: dst_port } = self.ports;
        Header {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port,
            dst_port,
            len: 0,
            kind: STREAM,
            op: op as u16,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }

    /// A control packet went to the guest.
    pub fn note_sent(&mut self, op: Op, flags: u32) {
        match op {
            Op::Request => self.phase = Phase::Requesting { sent: true },
            Op::Response => self.phase = Phase::Open,
            Op::CreditRequest => self.to_guest.note_asked(),
            Op::Shutdown => {
                self.sent_flags |= flags;
                if self.sent_flags == NO_MORE {
                    self.phase = Phase::Closing;
                }
            }
            Op::Reset | Op::Data | Op::CreditUpdate => {}
        }
    }

    /// Whether the connection is over.
    pub fn fate(&self) -> Fate {
        match self.phase {
            Phase::Calling | Phase::Requesting { .. } => Fate::Stays,
            Phase::Draining if self.to_host.is_closed() => Fate::Over,
            Phase::Draining => Fate::Stays,
            Phase::Answering | Phase::Open | Phase::Closing => {
                let done = self.guest_flags == NO_MORE && self.to_host.is_closed();
                if done { Fate::OverWithReset } else { Fate::Stays }
            }
        }
    }

    /// Takes a packet of the guest, other than RST.
    pub fn take(&mut self, header: &Header, packet: &Packet<'_>) -> Result<(), Violation> {
        self.to_guest.note_credit(header.buf_alloc, header.fwd_cnt);
        match (self.phase, header.op()) {
            (Phase::Requesting { sent: true }, Some(Op::Response)) => self.open(),
            (Phase::Answering | Phase::Open | Phase::Closing, Some(Op::Data)) => {
                self.to_host.take(&self.socket, packet.data())?;
            }
            (Phase::Answering | Phase::Open | Phase::Closing, Some(Op::Shutdown)) => {
                self.take_shutdown(header.flags);
            }
            (Phase::Answering | Phase::Open, Some(Op::CreditRequest)) => self.credit_asked = true,
            (Phase::Answering | Phase::Open, Some(Op::CreditUpdate)) => {}
            (Phase::Closing, Some(Op::CreditRequest | Op::CreditUpdate)) => {}
            _ => return Err(Violation),
        }
        Ok(())
    }

    /// The guest answered the program's call.
    fn open(&mut self) {
        (self.phase, self.deadline) = (Phase::Open, None);
        let answer = format!("OK {}\n", self.ports.host);
        // The first bytes always fit into a socket, unless the program is gone.
        if (&self.socket).write_all(answer.as_bytes()).is_err() {
            self.to_host.close();
        }
    }

    fn take_shutdown(&mut self, flags: u32) {
        let new = flags & NO_MORE & !self.guest_flags;
        self.guest_flags |= new;
        if new & NO_SEND != 0 {
            self.to_host.end(&self.socket);
        }
        if new & NO_RECEIVE != 0 {
            self.to_guest.refuse(&self.socket);
        }
    }

    /// The guest sent RST. Answers whether data is left for the program, with which the connection goes on.
    pub fn drain(&mut self) -> bool {
        let opened = matches!(self.phase, Phase::Answering | Phase::Open | Phase::Closing);
        if opened {
            (self.phase, self.deadline) = (Phase::Draining, None);
            self.to_host.end(&self.socket);
        }
        opened && !self.to_host.is_closed()
    }

    /// The socket reported something.
    pub fn note_socket(&mut self, readable: bool, ended: bool, gone: bool) {
        if readable || ended || gone {
            self.to_guest.note_readable(ended || gone);
        }
        if gone {
            self.to_host.close();
        }
        self.to_host.flush(&self.socket);
    }

    /// Reads what the program sent into `buffers`, as much as they hold.
    pub fn receive(&mut self, buffers: &Buffers<'_>) -> Received {
        let read = vectored::read(self.socket.as_fd(), buffers.data());
        self.to_guest.receive(read, buffers.taken())
    }
}
