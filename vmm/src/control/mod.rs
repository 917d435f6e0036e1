//! The control socket, served on the main thread: what the machine does is told, what is asked is answered.
//!
//! The protocol and its types are [`rvm_config::control`]'s. Who holds the other end is trusted as the starter of
//! the VM, but not to speak well: a packet that is no request is answered so. What the other end is not ready to
//! hear waits, and no request is taken meanwhile, so that it is never more than an answer and the few events.

mod commands;
mod socket;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::poll::PollTimeout;
use rvm_config::control::{
    CONTROL_VERSION, Command, Ended, Event, MAX_CONTROL_PACKET, Message, Outcome, Request,
};
use rvm_config::{Control as ControlConfig, VmConfig};
use vmm_sys_util::epoll::EventSet;

use crate::console::tail::Tail;
use crate::devices::machine_event::EventRecord;
use crate::event_loop::Poller;
use crate::vm::Vm;
use commands::carry_out;
use socket::{PacketSocket, Received};

/// How long the other end has to take the last packets.
const PATIENCE_MS: u16 = 1000;

/// Why there can be no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The descriptor is no socket.
    #[error("cannot use descriptor {fd} as control socket; pass one end of a socket pair to rvm")]
    Descriptor {
        /// The descriptor given.
        fd: RawFd,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The descriptor is another kind of socket.
    #[error(
        "cannot use descriptor {0} as control socket: it is no connected Unix socket of type SOCK_SEQPACKET; make it \
         with socketpair(2)"
    )]
    WrongType(RawFd),
}

/// How it goes on after the other end was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// As before.
    GoOn,
    /// The machine shall end.
    Stop,
    /// Nobody holds the other end any more.
    Closed,
}

/// What the other end said.
#[derive(Debug)]
enum Heard {
    /// Nothing that is left to do.
    Nothing,
    /// A request, to be answered, and the descriptors it is about.
    Request(Request, Vec<OwnedFd>),
    /// It is closed: nobody is there to answer to.
    Closed,
}

/// The VMM's end of the control socket.
pub struct Control {
    socket: PacketSocket,
    /// Packets that the other end was not ready for.
    waiting: VecDeque<Vec<u8>>,
    /// What the socket is watched for.
    watched: EventSet,
    init_told: bool,
    ready_told: bool,
    tail: Option<Tail>,
}

impl Control {
    /// Takes the socket that `config` names, and says hello.
    pub fn open(config: &ControlConfig) -> Result<Self, ControlError> {
        let mut control = Self::new(PacketSocket::inherited(config.fd)?);
        control.tell(&Message::Hello { version: CONTROL_VERSION });
        Ok(control)
    }

    fn new(socket: PacketSocket) -> Self {
        let (waiting, tail) = (VecDeque::new(), None);
        Self { socket, waiting, watched: EventSet::IN, init_told: false, ready_told: false, tail }
    }

    /// From now on the last words of the console are `tail`, if it is captured.
    pub fn capture(&mut self, tail: Option<&Tail>) {
        self.tail = tail.cloned();
    }

    /// What to wait for on the socket at first: [`EventSet::IN`].
    pub fn socket(&self) -> &impl AsRawFd {
        &self.socket
    }

    /// Watches the socket for what can be done now.
    pub fn watch(&mut self, poller: &Poller, token: u64) -> io::Result<()> {
        let wanted = if self.waiting.is_empty() { EventSet::IN } else { EventSet::OUT };
        if wanted != self.watched {
            poller.modify(&self.socket, token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }

    /// Sends what waits; then carries out one request, if there is one, on `vm`, which was made of `machine`.
    pub fn serve(&mut self, machine: &VmConfig, vm: &mut Vm) -> Served {
        let (Request { id, command }, descriptors) = match self.hear() {
            Heard::Nothing => return Served::GoOn,
            Heard::Closed => return Served::Closed,
            Heard::Request(request, descriptors) => (request, descriptors),
        };
        let then = if command == Command::Stop { Served::Stop } else { Served::GoOn };
        let outcome = carry_out(command, descriptors, machine, vm, self.tail.as_ref());
        self.tell(&Message::Answer { id: Some(id), outcome });
        then
    }

    /// Sends what waits, and takes one packet if all of it could be sent.
    fn hear(&mut self) -> Heard {
        self.flush();
        if !self.waiting.is_empty() {
            return Heard::Nothing;
        }
        let refusal = match self.socket.receive() {
            Ok(Received::Packet { bytes, descriptors }) => match parse(&bytes, descriptors.len()) {
                Ok(request) => return Heard::Request(request, descriptors),
                Err(refusal) => refusal,
            },
            Ok(Received::Cut) => (
                None,
                format!(
                    "cannot take a packet of more than {MAX_CONTROL_PACKET} bytes, or with descriptors lost"
                ),
            ),
            Ok(Received::Nothing) => return Heard::Nothing,
            // A socket that fails is of no more use than a closed one.
            Ok(Received::Closed) | Err(_) => return Heard::Closed,
        };
        let (id, why) = refusal;
        self.tell(&Message::Answer { id, outcome: Outcome::Refused(why) });
        Heard::Nothing
    }

    /// Tells what is new in `record`.
    pub fn tell_of(&mut self, record: &EventRecord) {
        if record.init_started.is_some() && !self.init_told {
            self.init_told = true;
            self.tell(&Message::Event(Event::InitStarted));
        }
        if record.ready.is_some() && !self.ready_told {
            self.ready_told = true;
            self.tell(&Message::Event(Event::Ready));
        }
    }

    /// Tells the end, the last there is to tell; waits a moment for another end that has not read what came before.
    pub fn end(mut self, ended: Ended) {
        let console = self.tail.as_ref().map(Tail::text);
        self.tell(&Message::Event(Event::Ended(Ended { console, ..ended })));
        while let Some(packet) = self.waiting.pop_front() {
            self.socket.wait_writable(PollTimeout::from(PATIENCE_MS));
            if self.socket.send(&packet).is_err() {
                // Nobody listens: the exit status says the same.
                return;
            }
        }
    }

    fn tell(&mut self, message: &Message) {
        let packet = serde_json::to_vec(message).expect("messages have no map with keys that are no text");
        self.waiting.push_back(packet);
        self.flush();
    }

    /// Sends what waits, as far as the other end is ready.
    fn flush(&mut self) {
        while let Some(packet) = self.waiting.front() {
            match self.socket.send(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Gone as well if the other end is: hearing tells that.
                Ok(()) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
    }
}

/// The request in `packet`, which came with `descriptors`; or the id to answer and why it cannot be taken.
fn parse(packet: &[u8], descriptors: usize) -> Result<Request, (Option<u64>, String)> {
    let request: Request = serde_json::from_slice(packet)
        .map_err(|error| (None, format!("cannot read the request: {error}")))?;
    match (&request.command, descriptors) {
        (Command::AttachDisk { .. }, _) | (_, 0) => Ok(request),
        (_, count) => Err((
            Some(request.id),
            format!("cannot take {count} descriptors with this request: it needs none"),
        )),
    }
}

#[cfg(test)]
mod tests;
