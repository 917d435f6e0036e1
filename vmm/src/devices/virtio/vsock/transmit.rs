//! Packets from the guest: its transmit queue.

use virtio_queue::{Error, QueueOwnedT, QueueT};

use super::connection::{Phase, Ports};
use super::packet::{HOST_CID, Header, Op, STREAM};
use super::session::Session;

/// Most replies that wait for the guest to give buffers. Until it does, its packets wait as well (virtio 1.2,
/// section 5.10.6.3.1).
pub const MOST_REPLIES: usize = 256;

impl Session<'_> {
    /// Takes the packets in the queue, one ring's worth at most; answers whether there are more that can be taken.
    pub fn transmit(&mut self) -> Result<bool, Error> {
        self.transmit_queue.ring.disable_notification(self.memory)?;
        for _ in 0..self.transmit_queue.ring.size() {
            if self.replies.len() >= MOST_REPLIES {
                return Ok(false);
            }
            let Some(chain) = self.transmit_queue.ring.iter(self.memory)?.next() else {
                break;
            };
            let head = chain.head_index();
            self.stats.operations.add(1);
            match self.packet.read(self.memory, chain) {
                Some(header) => self.take(&header),
                None => self.stats.errors.add(1),
            }
            self.transmit_queue.ring.add_used(self.memory, head, 0)?;
        }
        self.transmit_queue.ring.enable_notification(self.memory)
    }

    /// Takes the packet at hand, whose header is `header`.
    fn take(&mut self, header: &Header) {
        if header.src_cid != u64::from(self.cid) {
            // Not this guest's name: nobody to answer to.
            return self.stats.errors.add(1);
        }
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            return self.refuse(header);
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        match (self.table.find(ports), header.op()) {
            (Some(slot), Some(Op::Reset)) => self.take_reset(slot),
            (Some(slot), _) => self.take_for(slot, header),
            (None, Some(Op::Request)) => self.connect(ports, header),
            (None, _) => self.refuse(header),
        }
    }

    /// Answers with RST, except to one.
    fn refuse(&mut self, header: &Header) {
        if header.op() != Some(Op::Reset) {
            self.stats.errors.add(1);
            self.reply(header.reset());
        }
    }

    /// Connects the guest to the program that listens for `ports`.
    fn connect(&mut self, ports: Ports, header: &Header) {
        if !self.table.has_room() {
            return self.refuse(header);
        }
        let Ok(socket) = self.listener.connect(ports.host) else {
            return self.refuse(header);
        };
        let slot = self.table.add(socket, Phase::Answering);
        if !self.watch(slot) {
            return self.refuse(header);
        }
        self.table.set_ports(slot, ports);
        if let Some(connection) = self.table.get_mut(slot) {
            connection.to_guest.note_credit(header.buf_alloc, header.fwd_cnt);
        }
        self.settle(slot);
    }

    /// Takes a packet for the connection in `slot`. A guest that breaks the rules loses the connection.
    fn take_for(&mut self, slot: usize, header: &Header) {
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        match connection.take(header, &self.packet) {
            Ok(()) => {
                if header.op() == Some(Op::Data) {
                    self.stats.bytes_out.add(header.len.into());
                }
                self.settle(slot);
            }
            Err(_) => {
                self.stats.errors.add(1);
                self.remove(slot, true);
            }
        }
    }

    /// The guest is done with the connection in `slot`.
    fn take_reset(&mut self, slot: usize) {
        let drains = self.table.get_mut(slot).is_some_and(|connection| connection.drain());
        if drains {
            self.table.forget_ports(slot);
        } else {
            self.remove(slot, false);
        }
    }
}
