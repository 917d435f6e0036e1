//! Packets to the guest, into its receive queue: replies first, then connections in turns.

use virtio_queue::{Error, QueueT};

use super::connection::{Next, Phase};
use super::packet::Op;
use super::session::Session;
use super::to_guest::Received;
use super::transmit::MOST_REPLIES;

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A packet was sent, or there was none after all.
    Done,
    /// The guest has no buffer.
    NoBuffer,
}

impl Session<'_> {
    /// Sends what there is for the guest, about one ring's worth at most; answers whether there is more that can
    /// be done at once.
    pub fn receive(&mut self) -> Result<bool, Error> {
        let stalled = self.replies.len() >= MOST_REPLIES;
        let first = self.buffers.queue.ring.next_used();
        while self.buffers.queue.ring.next_used().wrapping_sub(first) < self.buffers.queue.ring.size() {
            let turn = if !self.replies.is_empty() {
                self.send_reply()?
            } else if let Some(slot) = self.table.next_listed() {
                self.send_for(slot)?
            } else {
                break;
            };
            if turn == Turn::NoBuffer {
                // Only now is the driver asked to tell when it gives buffers.
                let more = self.buffers.queue.ring.enable_notification(self.memory)?;
                return Ok(more || stalled && self.replies.len() < MOST_REPLIES);
            }
        }
        // Packets of the guest that waited for room for replies can be taken.
        Ok(stalled || !self.replies.is_empty() || self.table.has_listed())
    }

    fn send_reply(&mut self) -> Result<Turn, Error> {
        if !self.buffers.take(1, 0)? {
            return Ok(Turn::NoBuffer);
        }
        match self.replies.pop_front() {
            Some(reply) => self.buffers.send(reply, 0)?,
            None => self.buffers.give_back(0),
        }
        Ok(Turn::Done)
    }

    /// Sends the next packet of the connection in `slot`, or several if it is data.
    fn send_for(&mut self, slot: usize) -> Result<Turn, Error> {
        let Some(connection) = self.table.get_mut(slot) else {
            return Ok(Turn::Done);
        };
        let Some(next) = connection.next() else {
            return Ok(Turn::Done);
        };
        let (most, bytes) = match next {
            Next::Control(..) => (1, 0),
            Next::Data => (connection.to_guest.batch(), connection.to_guest.credit()),
        };
        let taken = self.buffers.take(most, usize::try_from(bytes).unwrap_or(usize::MAX))?;
        if taken {
            match next {
                Next::Control(op, flags) => {
                    let header = connection.header(self.cid, op, flags);
                    connection.note_sent(op, flags);
                    self.buffers.send(header, 0)?;
                }
                Next::Data => match connection.receive(&self.buffers) {
                    Received::Data(bytes) => {
                        let header = connection.header(self.cid, Op::Data, 0);
                        self.buffers.send(header, bytes)?;
                    }
                    Received::Nothing | Received::End => self.buffers.give_back(0),
                },
            }
            if connection.phase == Phase::Closing {
                self.set_deadline(slot);
            }
        }
        self.settle(slot);
        Ok(if taken { Turn::Done } else { Turn::NoBuffer })
    }
}
