//! All connections of a device, with a hard bound on their number and on what they keep.
//!
//! A connection has a slot as long as it lives, by which its socket's events find it, and is found by its ports
//! when a packet of the guest names them. A draining connection has no ports any more: the guest may use them
//! again.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use super::connection::{Connection, Phase, Ports};

/// Most connections. Each holds a descriptor, of which processes often have 1024.
pub const MOST_CONNECTIONS: usize = 512;
/// What a connection keeps at most for its program, in bytes: one packet of the largest that Linux sends.
const WINDOW: u32 = 64 << 10;
/// What it keeps while it is among few: enough that the guest sends on while a packet is worked on.
const WIDE_WINDOW: u32 = 256 << 10;
/// How many connections have the wide window. All windows together are 44 MiB.
const MOST_WIDE: usize = 64;
/// Ports of the host that programs' connections get: from 2^30, where no service listens, half the range up.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;

/// The connections.
pub struct Table {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, usize>,
    /// Slots of the connections that have something for the guest, in turn.
    ready: VecDeque<usize>,
    next_port: u32,
}

impl Table {
    /// No connections.
    pub fn new() -> Self {
        let (slots, free, by_ports, ready) = (Vec::new(), Vec::new(), HashMap::new(), VecDeque::new());
        Self { slots, free, by_ports, ready, next_port: FIRST_PORT }
    }

    /// Ends all connections. Ports of the host go on where they were: no program meets another's connection.
    pub fn clear(&mut self) {
        let Self { slots, free, by_ports, ready, next_port: _ } = self;
        slots.clear();
        free.clear();
        by_ports.clear();
        ready.clear();
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.len() < MOST_CONNECTIONS
    }

    /// Adds a connection with the program behind `socket`, without ports; gives its slot.
    pub fn add(&mut self, socket: UnixStream, phase: Phase) -> usize {
        let window = if self.len() < MOST_WIDE { WIDE_WINDOW } else { WINDOW };
        let connection = Connection::new(socket, phase, window);
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(connection),
            None => self.slots.push(Some(connection)),
        }
        slot
    }

    /// Gives the connection in `slot` its ports, which must be free.
    pub fn set_ports(&mut self, slot: usize, ports: Ports) {
        if let Some(connection) = self.get_mut(slot) {
            connection.ports = ports;
            self.by_ports.insert(ports, slot);
        }
    }

    /// A port of the host that no connection with port `guest` has.
    pub fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = if host == LAST_PORT { FIRST_PORT } else { host.saturating_add(1) };
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// The connection in `slot`.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The slot of the connection that the guest knows by `ports`.
    pub fn find(&self, ports: Ports) -> Option<usize> {
        self.by_ports.get(&ports).copied()
    }

    /// The guest knows the connection in `slot` no more.
    pub fn forget_ports(&mut self, slot: usize) {
        if let Some(connection) = self.slots.get(slot).and_then(Option::as_ref)
            && self.by_ports.get(&connection.ports) == Some(&slot)
        {
            self.by_ports.remove(&connection.ports);
        }
    }

    /// Takes the connection out of `slot`.
    pub fn remove(&mut self, slot: usize) -> Option<Connection> {
        self.forget_ports(slot);
        let connection = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        if connection.listed {
            self.ready.retain(|listed| *listed != slot);
        }
        Some(connection)
    }

    /// The connection in `slot` has something for the guest: it gets its turn.
    pub fn list(&mut self, slot: usize) {
        if let Some(connection) = self.get_mut(slot).filter(|connection| !connection.listed) {
            connection.listed = true;
            self.ready.push_back(slot);
        }
    }

    /// The connection whose turn it is, no longer listed.
    pub fn next_listed(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front()?;
        if let Some(connection) = self.get_mut(slot) {
            connection.listed = false;
        }
        Some(slot)
    }

    /// Whether a connection has something for the guest.
    pub fn has_listed(&self) -> bool {
        !self.ready.is_empty()
    }

    /// All slots that are in use.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &Connection)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, connection)| Some((slot, connection.as_ref()?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn add(table: &mut Table, guest: u32) -> usize {
        let (socket, _) = UnixStream::pair().unwrap();
        let slot = table.add(socket, Phase::Answering);
        table.set_ports(slot, Ports { host: 1, guest });
        slot
    }

    #[test]
    fn a_connection_is_found_by_its_ports_until_it_is_removed() {
        let mut table = Table::new();
        let (first, second) = (add(&mut table, 1), add(&mut table, 2));
        assert_eq!(table.find(Ports { host: 1, guest: 2 }), Some(second));
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        assert_eq!(table.find(Ports { host: 1, guest: 1 }), None);
        assert_eq!((table.len(), add(&mut table, 3)), (1, first));
    }

    #[test]
    fn ports_that_were_given_anew_are_not_forgotten_with_the_old_connection() {
        let mut table = Table::new();
        let old = add(&mut table, 1);
        table.forget_ports(old);
        let new = add(&mut table, 1);
        table.remove(old);
        assert_eq!(table.find(Ports { host: 1, guest: 1 }), Some(new));
    }

    #[test]
    fn a_removed_connection_leaves_the_turns_of_the_others() {
        let mut table = Table::new();
        let slots = [1, 2, 3].map(|guest| add(&mut table, guest));
        for slot in slots.into_iter().chain(slots) {
            table.list(slot);
        }
        table.remove(slots[1]);
        let turns: Vec<_> = std::iter::from_fn(|| table.next_listed()).collect();
        assert_eq!(turns, [slots[0], slots[2]]);
    }

    #[test]
    fn ports_of_the_host_wrap_around_those_in_use() {
        let mut table = Table::new();
        table.next_port = LAST_PORT;
        let ports = [9, 9].map(|guest| {
            let (slot, host) = (add(&mut table, 0), table.free_port(guest));
            table.set_ports(slot, Ports { host, guest });
            host
        });
        assert_eq!(ports, [LAST_PORT, FIRST_PORT]);
        table.next_port = LAST_PORT;
        assert_eq!(table.free_port(9), FIRST_PORT + 1);
    }
}
