//! From kick to used ring: what the thread of a shared directory does between DRIVER_OK and stop.
//!
//! Requests are carried out one after the other, those of the high-priority queue (FORGET) first. Kicks are waited
//! for by their edge and never read, as long as a queue is worked on none are asked for. An answer waits for its
//! interrupt no longer than [`ANNOUNCE_AFTER`], a stop no longer than [`TURN`] and the request at hand.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::super::{DeviceError, DeviceStats, Interrupt, VirtQueue};
use super::filesystem::FileSystem;
use super::message::Message;
use super::wire::{Reply, opcode};
use crate::event_loop::Poller;

/// How long a queue is worked on before anything else is looked at.
const TURN: Duration = Duration::from_millis(20);
/// How long answers are gathered for one interrupt.
const ANNOUNCE_AFTER: Duration = Duration::from_micros(100);

const STOP: u64 = u64::MAX;

/// A shared directory at work on a driver's queues.
pub struct Session<'a> {
    /// The directory.
    pub files: &'a mut FileSystem,
    /// Its counters.
    pub stats: &'a DeviceStats,
    /// The driver's queues: high priority, requests.
    pub queues: &'a mut [VirtQueue],
    /// Where requests and their data are.
    pub memory: &'a GuestMemoryMmap,
    /// How the driver hears of answers.
    pub interrupt: &'a Interrupt,
    /// The request at hand.
    pub message: Message,
    /// The answer to it.
    pub reply: Reply,
}

impl Session<'_> {
    /// Takes requests and answers them until `stop` is readable.
    pub fn run(mut self, stop: &EventFd) -> Result<(), DeviceError> {
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        poller.add(stop, STOP, EventSet::IN).map_err(DeviceError::host("watch for the stop"))?;
        for (index, queue) in (0..).zip(self.queues.iter()) {
            let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
            poller.add(&queue.kick, index, edge).map_err(DeviceError::host("watch for kicks"))?;
        }
        // What came while nobody ran is there without a kick.
        let mut more = self.pass()?;
        loop {
            let timeout = if more { 0 } else { -1 };
            let events = poller.wait(timeout).map_err(DeviceError::host("wait for kicks"))?;
            self.stats.wakeups.add(1);
            for (token, _) in events {
                if token == STOP {
                    return Ok(());
                }
                self.stats.kicks.add(1);
            }
            more = self.pass()?;
        }
    }

    /// Works on each queue for a turn. Answers whether there is more to do at once.
    fn pass(&mut self) -> Result<bool, DeviceError> {
        let mut more = false;
        for index in 0..self.queues.len() {
            more |= self.serve(index)?;
        }
        Ok(more)
    }

    fn serve(&mut self, index: usize) -> Result<bool, DeviceError> {
        let broken = DeviceError::queue;
        let memory = self.memory;
        let began = Instant::now();
        let mut announced = began;
        let mut unannounced = false;
        self.ring(index)?.disable_notification(memory).map_err(broken(index))?;
        while began.elapsed() < TURN {
            let Some(chain) = self.ring(index)?.iter(memory).map_err(broken(index))?.next() else {
                break;
            };
            let head = chain.head_index();
            let written = self.answer(chain).ok_or(DeviceError::Chain { index, head })?;
            self.ring(index)?.add_used(memory, head, written).map_err(broken(index))?;
            unannounced = true;
            if announced.elapsed() >= ANNOUNCE_AFTER {
                self.announce(index)?;
                (announced, unannounced) = (Instant::now(), false);
            }
        }
        if unannounced {
            self.announce(index)?;
        }
        self.ring(index)?.enable_notification(memory).map_err(broken(index))
    }

    fn ring(&mut self, index: usize) -> Result<&mut virtio_queue::Queue, DeviceError> {
        self.queues.get_mut(index).map(|queue| &mut queue.ring).ok_or(DeviceError::QueueMissing(index))
    }

    /// Interrupts the driver, if it wants to hear of what was put into the used ring.
    fn announce(&mut self, index: usize) -> Result<(), DeviceError> {
        let memory = self.memory;
        if self.ring(index)?.needs_notification(memory).map_err(DeviceError::queue(index))? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Does what `chain` asks for; gives the bytes of the reply, if there is one. `None` when it is no chain.
    fn answer(&mut self, chain: DescriptorChain<&GuestMemoryMmap>) -> Option<u32> {
        let Self { files, stats, memory, message, reply, .. } = self;
        if !message.take(chain) {
            return None;
        }
        stats.operations.add(1);
        reply.clear();
        let room = message.wants_reply();
        let result = message.request(memory).and_then(|request| {
            let opcode = request.header.opcode;
            if !room && !matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET) {
                // What cannot be answered is not done.
                return Err(Errno::EINVAL);
            }
            files.handle(request, reply)
        });
        if result.is_err_and(is_trouble) {
            stats.errors.add(1);
        }
        if !room {
            return Some(0);
        }
        let written = match message.reply(memory, result.map(|()| &*reply)) {
            // An answer larger than its room.
            Err(_) if result.is_ok() => message.reply(memory, Err(Errno::EIO)),
            written => written,
        };
        stats.bytes_in.add(reply.moved.into());
        stats.bytes_out.add(reply.taken.into());
        Some(written.unwrap_or(0))
    }
}

/// Whether an error says more than that something is, or is not, there.
fn is_trouble(errno: Errno) -> bool {
    !matches!(errno, Errno::ENOENT | Errno::ENODATA | Errno::EEXIST | Errno::ENOSYS)
}
