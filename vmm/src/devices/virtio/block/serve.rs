//! From kick to used ring: what the block device's thread does between DRIVER_OK and stop.
//!
//! ```text
//!  wait ──> pass: take ──> begin ──> done at once ─────────────┐
//!   ▲                        └────> ring ──> finished ─────────┴──> answer ──> one interrupt
//!   └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Kicks and completions are events that are waited for by their edge and never read; while a pass lasts neither
//! is asked for. A lone 4 KiB request that the page cache can do costs three system calls: epoll_wait, preadv2 or
//! pwritev2, and the interrupt's write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::super::buffers::{OutsideMemory, copy_to};
use super::super::{DeviceError, Interrupt, VirtQueue};
use super::medium::Medium;
use super::request::{self, Direction, Request, Status, Work};
use super::ring::Ring;
use super::{Block, in_ring};
use crate::event_loop::Poller;

/// Bytes after which a pass over the queue ends, so that a stop is heard however much a driver asks for.
const PASS_BYTES: u64 = 64 << 20;

const STOP: u64 = 0;
const KICK: u64 = 1;
const COMPLETED: u64 = 2;

/// A disk at work on a driver's queue.
pub struct Session<'a> {
    /// The disk.
    pub block: &'a mut Block,
    /// The driver's requests.
    pub queue: &'a mut VirtQueue,
    /// Where they and their data are.
    pub memory: &'a GuestMemoryMmap,
    /// How the driver hears of answers.
    pub interrupt: &'a Interrupt,
}

/// Why a request was not done.
enum Failure {
    /// It is wrong.
    Refused(Status),
    /// The host could not.
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl Session<'_> {
    /// Takes requests and answers them until `stop` is readable; then, or after an error, waits until nothing
    /// is in flight: guest memory is the driver's again.
    pub fn run(mut self, stop: &EventFd) -> Result<(), DeviceError> {
        let served = self.serve(stop);
        let drained = self.drain();
        served.and(drained)
    }

    fn serve(&mut self, stop: &EventFd) -> Result<(), DeviceError> {
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        poller.add(stop, STOP, EventSet::IN).map_err(DeviceError::host("watch for the stop"))?;
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        poller.add(&self.queue.kick, KICK, edge).map_err(DeviceError::host("watch for kicks"))?;
        if let Some(ring) = &self.block.ring {
            let completed = ring.completed();
            poller.add(completed, COMPLETED, edge).map_err(DeviceError::host("watch for completions"))?;
        }
        // What came while nobody ran is there without a kick.
        let mut more = self.pass()?;
        loop {
            let timeout = if more { 0 } else { -1 };
            let events = poller.wait(timeout).map_err(DeviceError::host("wait for kicks"))?;
            self.block.stats.wakeups.add(1);
            for (token, _) in events {
                match token {
                    STOP => return Ok(()),
                    KICK => self.block.stats.kicks.add(1),
                    _ => {}
                }
            }
            more = self.pass()?;
        }
    }

    /// Takes what is available and answers what is done, with one interrupt for all of it. Answers whether
    /// there is more to do at once.
    fn pass(&mut self) -> Result<bool, DeviceError> {
        if let Some(ring) = &mut self.block.ring {
            ring.work();
        }
        self.queue.ring.disable_notification(self.memory).map_err(broken)?;
        let answered = self.take()? | self.answer_finished()?;
        self.notify(answered)?;
        let available = self.queue.ring.enable_notification(self.memory).map_err(broken)?;
        let finished = self.block.ring.as_mut().is_some_and(Ring::listen);
        // With too much in flight, what is available waits for something to finish.
        Ok(finished || available && self.bytes_in_flight() < PASS_BYTES)
    }

    /// Takes available chains, up to a ring's worth and [`PASS_BYTES`]. Tells whether some were answered.
    fn take(&mut self) -> Result<bool, DeviceError> {
        let mut bytes = self.bytes_in_flight();
        let mut answered = false;
        for _ in 0..self.queue.ring.size() {
            if bytes >= PASS_BYTES {
                break;
            }
            let Some(chain) = self.queue.ring.iter(self.memory).map_err(broken)?.next() else {
                break;
            };
            let head = chain.head_index();
            if self.block.ring.as_ref().is_some_and(|ring| ring.holds(head)) {
                return Err(DeviceError::HeadInFlight { index: 0, head });
            }
            let medium = self.block.seen.medium();
            let limits = self.block.limits(medium.as_deref());
            let request = request::parse(chain, self.memory, &limits, &mut self.block.segments)
                .ok_or(DeviceError::Chain { index: 0, head })?;
            bytes = bytes.saturating_add(request.work.bytes());
            if let Some(result) = self.begin(&request, medium.as_ref())? {
                self.answer(&request, result)?;
                answered = true;
            }
        }
        Ok(answered)
    }

    /// Does what `request` asks for on `medium`, its data in the block's segments, or begins it: `None` then.
    ///
    /// One that is alone has nothing to overlap with. It is done at once if that does not mean to wait for
    /// storage: a write goes to the host's page cache, a read may find its data there. Through the ring either
    /// could cost a second wake-up and a kernel thread, on file systems that io_uring cannot ask not to wait
    /// (writes on ext4, everything on overlayfs).
    fn begin(
        &mut self,
        request: &Request,
        medium: Option<&Arc<Medium>>,
    ) -> Result<Option<Result<u64, Failure>>, DeviceError> {
        let Block { ring, engine, segments, progress, write_flags, .. } = &mut *self.block;
        let long = |medium: &&Arc<Medium>| request.work.takes_time() && in_ring(*engine, medium);
        let (Some(ring), Some(medium)) = (ring, medium.filter(long)) else {
            return Ok(Some(self.carry_out(request, medium)));
        };
        let available = self.queue.ring.avail_idx(self.memory, Ordering::Relaxed).map_err(broken)?;
        let alone = ring.is_idle() && available.0 == self.queue.ring.next_avail();
        if alone && let Work::Transfer(transfer) = request.work {
            let flags = match transfer.direction {
                Direction::Read => Some(libc::RWF_NOWAIT),
                Direction::Write => Some(0).filter(|flags| flags == write_flags),
            };
            let done = |flags| medium.transfer(transfer, flags, self.memory, segments, progress).is_ok();
            // What fails here fails in the ring again, or takes its time there.
            if flags.is_some_and(done) {
                return Ok(Some(Ok(request.work.bytes_read())));
            }
        }
        let begun = ring.begin(request, segments, medium);
        Ok(begun.err().map(|OutsideMemory| Err(Failure::Refused(Status::IoError))))
    }

    /// Does what `request` asks for on `medium`, its data in the block's segments; gives the bytes put into guest
    /// memory.
    fn carry_out(&mut self, request: &Request, medium: Option<&Arc<Medium>>) -> Result<u64, Failure> {
        let Block { id, segments, progress, write_flags, .. } = &mut *self.block;
        match (&request.work, medium) {
            (Work::GetId, _) => {
                let copied = copy_to(self.memory, segments, id);
                return copied.ok_or(Failure::Refused(Status::IoError));
            }
            (Work::Refuse(status), _) => return Err(Failure::Refused(*status)),
            // Without a medium what is not refused is about no bytes at all.
            (_, None) => {}
            (Work::Transfer(transfer), Some(medium)) => {
                let flags = if transfer.direction == Direction::Write { *write_flags } else { 0 };
                medium.transfer(*transfer, flags, self.memory, segments, progress)?;
            }
            (Work::Flush, Some(medium)) => medium.file().flush()?,
            (Work::Discard(range), Some(medium)) => medium.file().discard(range)?,
            (Work::WriteZeroes { range, unmap }, Some(medium)) => {
                medium.file().write_zeroes(range, *unmap)?
            }
        }
        Ok(request.work.bytes_read())
    }

    /// Starts what was begun, and answers what is finished. Tells whether there was such.
    fn answer_finished(&mut self) -> Result<bool, DeviceError> {
        let mut answered = false;
        while let Some((request, result)) = self.block.ring.as_mut().and_then(Ring::next_finished) {
            let result = result.map(|()| request.work.bytes_read()).map_err(Failure::Host);
            self.answer(&request, result)?;
            answered = true;
        }
        Ok(answered)
    }

    /// Waits until nothing is in flight, whatever else goes wrong.
    fn drain(&mut self) -> Result<(), DeviceError> {
        let mut result = Ok(false);
        while let Some(ring) = self.block.ring.as_mut().filter(|ring| !ring.is_idle()) {
            ring.wait();
            let answered = self.answer_finished();
            result = result.and_then(|before| Ok(before | answered?));
        }
        self.notify(result?)
    }

    /// Gives `request` back to the driver with its status.
    fn answer(&mut self, request: &Request, result: Result<u64, Failure>) -> Result<(), DeviceError> {
        let stats = &self.block.stats;
        stats.operations.add(1);
        let (status, read) = match result {
            Ok(read) => {
                stats.bytes_in.add(read);
                stats.bytes_out.add(request.work.bytes_written());
                (Status::Ok, read)
            }
            Err(failure) => {
                stats.errors.add(1);
                (self.status_of(failure), 0)
            }
        };
        self.memory
            .write_obj(status as u8, request.status)
            .map_err(|error| broken(virtio_queue::Error::GuestMemory(error)))?;
        // The count of what was written from the start on: the status only counts when all before it does.
        let written = if read == request.room { read.saturating_add(1) } else { read };
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.queue.ring.add_used(self.memory, request.head, written).map_err(broken)
    }

    /// Interrupts the driver, if something was answered and it wants to hear of it.
    fn notify(&mut self, answered: bool) -> Result<(), DeviceError> {
        if answered && self.queue.ring.needs_notification(self.memory).map_err(broken)? {
            self.interrupt.used();
        }
        Ok(())
    }

    fn status_of(&mut self, failure: Failure) -> Status {
        match failure {
            Failure::Refused(status) => status,
            Failure::Host(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Status::Unsupported,
                // Data outside of guest memory: not the host's fault.
                Some(libc::EFAULT) => Status::IoError,
                _ => self.complain(&error),
            },
        }
    }

    /// Tells the user of the first failure of the host. The driver can make more of them, as by filling the
    /// file system; those are counted.
    fn complain(&mut self, error: &io::Error) -> Status {
        if !self.block.complained {
            self.block.complained = true;
            log::warn!("block device: the host failed a request: {error}; further failures are only counted");
        }
        Status::IoError
    }

    fn bytes_in_flight(&self) -> u64 {
        self.block.ring.as_ref().map_or(0, Ring::bytes)
    }
}

/// The device's only queue is broken.
fn broken(source: virtio_queue::Error) -> DeviceError {
    DeviceError::Queue { index: 0, source }
}
