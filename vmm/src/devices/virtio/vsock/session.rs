//! A device while it runs: the loop between the driver's kicks, the listening socket and the connections.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::buffers::Buffers;
use super::chains::Packet;
use super::connection::{Fate, Phase, Ports};
use super::listener::{Call, Listener, read_call};
use super::packet::{Header, Op};
use super::table::{MOST_CONNECTIONS, Table};
use super::transmit::MOST_REPLIES;
use super::{RECEIVE, TRANSMIT};
use crate::devices::virtio::{DeviceError, DeviceStats, Interrupt, VirtQueue};
use crate::event_loop::Poller;

const STOP: u64 = 0;
const RECEIVE_KICK: u64 = 1;
const TRANSMIT_KICK: u64 = 2;
const LISTENER: u64 = 3;
/// Connections are reported under this and their slot.
const FIRST_SLOT: u64 = 4;

/// When the host cannot give a descriptor for a program that connected, how long until it is asked again.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A running device: what it keeps between runs, and what it runs on.
pub struct Session<'m> {
    /// The guest's identifier.
    pub cid: u32,
    /// Where programs connect, and what the guest connects to.
    pub listener: &'m Listener,
    /// The connections.
    pub table: &'m mut Table,
    /// Packets for the guest that belong to no connection.
    pub replies: &'m mut VecDeque<Header>,
    /// How long a phase with a deadline lasts.
    pub patience: Duration,
    /// The device's counters.
    pub stats: &'m DeviceStats,
    /// The guest's memory.
    pub memory: &'m GuestMemoryMmap,
    /// Buffers for packets to the guest: the receive queue.
    pub buffers: Buffers<'m>,
    /// Packets from the guest.
    pub transmit_queue: &'m mut VirtQueue,
    /// The packet at hand.
    pub packet: Packet<'m>,
    /// The device's interrupt.
    pub interrupt: &'m Interrupt,
    /// What the loop waits for.
    pub poller: Poller,
    /// How far the driver was considered for an interrupt, by each queue's used index.
    pub known_used: (u16, u16),
    /// Programs may be waiting to be accepted.
    pub accepting: bool,
    /// When to look for deadlines that have passed.
    pub look: Option<Instant>,
}

impl Session<'_> {
    /// Serves until `stop` is readable.
    pub fn run(mut self, stop: &EventFd) -> Result<(), DeviceError> {
        self.watch_all(stop).map_err(DeviceError::host("watch for events"))?;
        loop {
            let timeout = if self.work()? { 0 } else { self.time_to_look() };
            let events = self.poller.wait(timeout).map_err(DeviceError::host("wait for events"))?;
            self.stats.wakeups.add(1);
            for (token, events) in events {
                match token {
                    STOP => return Ok(()),
                    // Not read: edge-triggered, each kick is reported.
                    RECEIVE_KICK | TRANSMIT_KICK => self.stats.kicks.add(1),
                    LISTENER => self.accepting = true,
                    slot => self.on_socket(slot.saturating_sub(FIRST_SLOT), events),
                }
            }
            self.end_overdue();
        }
    }

    fn watch_all(&mut self, stop: &EventFd) -> io::Result<()> {
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.poller.add(stop, STOP, EventSet::IN)?;
        self.poller.add(&self.buffers.queue.kick, RECEIVE_KICK, edge)?;
        self.poller.add(&self.transmit_queue.kick, TRANSMIT_KICK, edge)?;
        self.poller.add(self.listener, LISTENER, edge)?;
        for (slot, connection) in self.table.slots() {
            // What a socket has to report already, it reports at once.
            watch(&self.poller, slot, &connection.socket)?;
        }
        let deadlines = self.table.slots().filter_map(|(_, connection)| connection.deadline);
        self.look = deadlines.min();
        Ok(())
    }

    /// Does everything that can be done now, within a bound; answers whether there is more.
    fn work(&mut self) -> Result<bool, DeviceError> {
        let more_from_guest = self.transmit().map_err(DeviceError::queue(TRANSMIT))?;
        let more_to_guest = self.receive().map_err(DeviceError::queue(RECEIVE))?;
        let receive_ring = (RECEIVE, &mut self.buffers.queue.ring, &mut self.known_used.0);
        let transmit_ring = (TRANSMIT, &mut self.transmit_queue.ring, &mut self.known_used.1);
        let mut wanted = false;
        for (index, ring, known) in [receive_ring, transmit_ring] {
            if *known != ring.next_used() {
                *known = ring.next_used();
                wanted |= ring.needs_notification(self.memory).map_err(DeviceError::queue(index))?;
            }
        }
        if wanted {
            self.interrupt.used();
        }
        // Last, as connections that ended have left room.
        self.accept();
        Ok(more_from_guest || more_to_guest)
    }

    /// Takes programs that connected, as long as there is room; the others wait in the kernel.
    fn accept(&mut self) {
        while self.accepting && self.table.has_room() {
            match self.listener.accept() {
                Ok(socket) => {
                    let slot = self.table.add(socket, Phase::Calling);
                    self.set_deadline(slot);
                    self.watch(slot);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accepting = false,
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => {
                    // Out of descriptors or memory: it is no use to ask before someone gave some back.
                    self.stats.errors.add(1);
                    self.accepting = false;
                    self.look_by(after(ACCEPT_AGAIN));
                }
            }
        }
    }

    /// Watches the socket of the connection in `slot`; without that, there is no connection.
    pub fn watch(&mut self, slot: usize) -> bool {
        let connection = self.table.get_mut(slot);
        let watched =
            connection.is_some_and(|connection| watch(&self.poller, slot, &connection.socket).is_ok());
        if !watched {
            self.stats.errors.add(1);
            self.remove(slot, false);
        }
        watched
    }

    fn on_socket(&mut self, slot: u64, events: EventSet) {
        let Ok(slot) = usize::try_from(slot) else {
            return;
        };
        // A slot that was taken anew since the event happened sees an event too many, which does no harm.
        if let Some(connection) = self.table.get_mut(slot) {
            let ended = events.intersects(EventSet::READ_HANG_UP | EventSet::ERROR);
            let (readable, gone) = (events.contains(EventSet::IN), events.contains(EventSet::HANG_UP));
            connection.note_socket(readable, ended, gone);
            if connection.phase == Phase::Calling {
                self.take_call(slot);
            }
            self.settle(slot);
        }
    }

    /// The program in `slot` may have said which port it wants.
    fn take_call(&mut self, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        match read_call(&connection.socket) {
            Call::Incomplete => {}
            Call::Invalid => self.remove(slot, false),
            Call::Port(guest) => {
                connection.phase = Phase::Requesting { sent: false };
                let host = self.table.free_port(guest);
                self.table.set_ports(slot, Ports { host, guest });
                self.set_deadline(slot);
            }
        }
    }

    /// Ends the connection in `slot` if it is over, and gives it a turn if it has something for the guest. To be
    /// called after whatever may have changed that.
    pub fn settle(&mut self, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        match connection.fate() {
            Fate::Over => self.remove(slot, false),
            Fate::OverWithReset => self.remove(slot, true),
            Fate::Stays if connection.next().is_some() => self.table.list(slot),
            Fate::Stays => {}
        }
    }

    /// Ends the connection in `slot`, with RST to the guest if `reset`.
    pub fn remove(&mut self, slot: usize, reset: bool) {
        self.accepting |= !self.table.has_room();
        if let Some(mut connection) = self.table.remove(slot)
            && reset
        {
            self.reply(connection.header(self.cid, Op::Reset, 0));
        }
    }

    /// Queues a packet that belongs to no connection any more. From a guest that gives no buffers for them, no
    /// packets are taken; what then still ends, ends without a word to it.
    pub fn reply(&mut self, header: Header) {
        if self.replies.len() < MOST_REPLIES + MOST_CONNECTIONS {
            self.replies.push_back(header);
        } else {
            self.stats.errors.add(1);
        }
    }

    /// The phase that the connection in `slot` is in now shall not last.
    pub fn set_deadline(&mut self, slot: usize) {
        let deadline = after(self.patience);
        if let Some(connection) = self.table.get_mut(slot) {
            connection.deadline = Some(deadline);
            self.look_by(deadline);
        }
    }

    fn look_by(&mut self, time: Instant) {
        self.look = Some(self.look.map_or(time, |look| look.min(time)));
    }

    /// Milliseconds until [`Self::end_overdue`] has to look, rounded up; -1 if never.
    fn time_to_look(&self) -> i32 {
        let Some(look) = self.look else {
            return -1;
        };
        let left = look.saturating_duration_since(Instant::now()).as_millis();
        i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1)
    }

    /// Ends the connections whose deadline has passed.
    fn end_overdue(&mut self) {
        let now = match self.look {
            Some(look) if look <= Instant::now() => Instant::now(),
            _ => return,
        };
        let deadlines = self.table.slots().filter_map(|(slot, connection)| {
            connection.deadline.map(|deadline| (slot, deadline, connection.phase))
        });
        let (overdue, others): (Vec<_>, Vec<_>) = deadlines.partition(|(_, deadline, _)| *deadline <= now);
        self.look = others.into_iter().map(|(_, deadline, _)| deadline).min();
        for (slot, _, phase) in overdue {
            // A program that never called is not known to the guest.
            self.remove(slot, phase != Phase::Calling);
        }
        self.accepting = true;
    }
}

fn watch(poller: &Poller, slot: usize, socket: &impl AsRawFd) -> io::Result<()> {
    let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    let token = u64::try_from(slot).unwrap_or(u64::MAX).saturating_add(FIRST_SLOT);
    poller.add(socket, token, events)
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}
