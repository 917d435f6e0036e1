//! Putting several chains into a used ring at once (virtio 1.2, section 2.7.8).
//!
//! A packet that fills several buffers (VIRTIO_NET_F_MRG_RXBUF) must not be seen in part: its elements are
//! written first, and one store of the index shows them all. `virtio_queue::Queue::add_used` shows each.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// Offset of the index in both rings; the elements follow it.
const INDEX: u64 = 2;
const ELEMENTS: u64 = 4;
/// An element: the chain's head and the bytes written into it, as two little-endian 32-bit numbers.
const ELEMENT_SIZE: u64 = 8;

/// The device's side of a used ring.
pub struct UsedRing {
    /// What the index was when the driver was last considered for an interrupt.
    considered: Wrapping<u16>,
}

impl UsedRing {
    /// The used ring of `queue`, of which the driver knows all elements so far.
    pub fn new(queue: &Queue) -> Self {
        Self { considered: Wrapping(queue.next_used()) }
    }

    /// Puts `chains`, each a head and the bytes written into it, into the ring.
    pub fn publish(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
        chains: &[(u16, u32)],
    ) -> Result<(), Error> {
        let mut next = Wrapping(queue.next_used());
        for &(head, written) in chains {
            if head >= queue.size() {
                return Err(Error::InvalidDescriptorIndex);
            }
            let slot = u64::from(next.0 % queue.size());
            let element = at(queue.used_ring(), ELEMENTS + slot * ELEMENT_SIZE)?;
            let value = [u32::from(head).to_le(), written.to_le()];
            memory.write_obj(value, element).map_err(Error::GuestMemory)?;
            next += 1;
        }
        queue.set_next_used(next.0);
        let index = at(queue.used_ring(), INDEX)?;
        memory.store(next.0.to_le(), index, Ordering::Release).map_err(Error::GuestMemory)
    }

    /// Whether the driver wants an interrupt for what was published since the last call (2.7.7 and 2.7.10).
    pub fn wants_interrupt(&mut self, queue: &Queue, memory: &GuestMemoryMmap) -> Result<bool, Error> {
        let now = Wrapping(queue.next_used());
        let new = now - self.considered;
        self.considered = now;
        if new.0 == 0 {
            return Ok(false);
        }
        // The index is visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let wish = if queue.event_idx_enabled() { ELEMENTS + 2 * u64::from(queue.size()) } else { 0 };
        let wish = memory.load(at(queue.avail_ring(), wish)?, Ordering::Relaxed);
        let wish = u16::from_le(wish.map_err(Error::GuestMemory)?);
        match queue.event_idx_enabled() {
            true => Ok(now - Wrapping(wish) - Wrapping(1) < new),
            // VIRTQ_AVAIL_F_NO_INTERRUPT
            false => Ok(wish & 1 == 0),
        }
    }
}

fn at(ring: u64, offset: u64) -> Result<GuestAddress, Error> {
    GuestAddress(ring).checked_add(offset).ok_or(Error::AddressOverflow)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    /// An empty queue of 4 in memory: available ring at 0x1000, used ring at 0x2000.
    fn queue(event_idx: bool) -> (Queue, GuestMemoryMmap) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let mut queue = Queue::new(4).unwrap();
        queue.set_avail_ring_address(Some(0x1000), Some(0));
        queue.set_used_ring_address(Some(0x2000), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        (queue, memory)
    }

    fn index(memory: &GuestMemoryMmap) -> u16 {
        memory.read_obj(GuestAddress(0x2002)).unwrap()
    }

    #[test]
    fn several_chains_are_shown_by_one_index() {
        let (mut queue, memory) = queue(false);
        let mut used = UsedRing::new(&queue);
        used.publish(&mut queue, &memory, &[(3, 100), (1, 50)]).unwrap();
        used.publish(&mut queue, &memory, &[(2, 7), (0, 8), (3, 9)]).unwrap();
        let elements: [[u32; 2]; 4] =
            [0, 1, 2, 3].map(|slot| memory.read_obj(GuestAddress(0x2004 + 8 * slot)).unwrap());
        assert_eq!(elements, [[3, 9], [1, 50], [2, 7], [0, 8]]);
        assert_eq!((index(&memory), queue.next_used()), (5, 5));
    }

    #[test]
    fn a_head_outside_of_the_table_is_refused_and_nothing_is_shown() {
        let (mut queue, memory) = queue(false);
        let mut used = UsedRing::new(&queue);
        assert!(used.publish(&mut queue, &memory, &[(0, 1), (4, 1)]).is_err());
        assert_eq!((index(&memory), queue.next_used()), (0, 0));
    }

    #[test]
    fn the_flag_of_the_driver_keeps_interrupts_away() {
        let (mut queue, memory) = queue(false);
        let mut used = UsedRing::new(&queue);
        assert!(!used.wants_interrupt(&queue, &memory).unwrap(), "nothing was published");
        used.publish(&mut queue, &memory, &[(0, 1)]).unwrap();
        assert!(used.wants_interrupt(&queue, &memory).unwrap());
        memory.write_obj(1_u16, GuestAddress(0x1000)).unwrap();
        used.publish(&mut queue, &memory, &[(0, 1)]).unwrap();
        assert!(!used.wants_interrupt(&queue, &memory).unwrap());
    }

    #[test]
    fn the_driver_is_interrupted_once_the_index_passes_its_event_also_where_it_wraps() {
        for start in [0, 0xfffd] {
            let (mut queue, memory) = queue(true);
            queue.set_next_used(start);
            let mut used = UsedRing::new(&queue);
            let event = start.wrapping_add(2);
            memory.write_obj(event, GuestAddress(0x1004 + 8)).unwrap();
            used.publish(&mut queue, &memory, &[(0, 1), (1, 1)]).unwrap();
            assert!(!used.wants_interrupt(&queue, &memory).unwrap(), "two of the three asked for");
            used.publish(&mut queue, &memory, &[(2, 1), (3, 1)]).unwrap();
            assert!(used.wants_interrupt(&queue, &memory).unwrap());
            used.publish(&mut queue, &memory, &[(0, 1)]).unwrap();
            assert!(!used.wants_interrupt(&queue, &memory).unwrap(), "the event is passed already");
        }
    }
}
