//! Block device (virtio 1.2, section 5.2): a raw file or a block device of the host as the guest's disk.
//!
//! ```text
//!  chain ──> request: parsed and checked once ──> file: one system call after the other ──┐
//!                                            └──> ring: io_uring, many at a time ─────────┴──> status, used ring
//! ```
//!
//! Data goes between the host's page cache and guest memory without a copy of its own (no O_DIRECT). What is
//! in flight lives in `ring`, never past a return of [`Block::run`]; what else there is to a disk's state is
//! its file. Images have no format here: a byte of the disk is a byte of the file.

pub mod buffers;
pub mod config;
pub mod file;
pub mod open;
pub mod request;
pub mod ring;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use rvm_config::{Disk, IoEngine};
use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, Interrupt, VirtQueue, VirtioDevice,
};
use crate::event_loop::Poller;
use buffers::{Buffers, OutsideMemory};
use file::DiskFile;
pub use open::BlockError;
use request::{Limits, Request, SECTOR, Segment, Status, Work};
use ring::Ring;

/// Bytes after which a pass over the queue ends, so that a stop is heard however much a driver asks for.
const PASS_BYTES: u64 = 64 << 20;

const STOP: u64 = 0;
const KICK: u64 = 1;
const COMPLETED: u64 = 2;

/// A disk.
pub struct Block {
    disk: DiskFile,
    /// Without one, a request is carried out when it is taken.
    ring: Option<Ring>,
    limits: Limits,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
    /// The data of the request at hand.
    segments: Vec<Segment>,
    /// The same, for the host's kernel.
    buffers: Buffers,
    /// The driver did not take FLUSH, so that it expects a completed write to be durable (section 5.2.6.2).
    write_through: bool,
    /// A failure of the host was logged: further ones are counted only.
    complained: bool,
}

impl Block {
    /// Opens and locks what `disk` names, and makes its ring.
    pub fn open(disk: &Disk) -> Result<Self, BlockError> {
        let (file, limits) = open::open(&disk.path, disk.read_only)?;
        let ring = match disk.engine {
            IoEngine::Sync => None,
            engine => match Ring::new(&file.file) {
                Ok(ring) => Some(ring),
                Err(error) if engine == IoEngine::Auto => {
                    let path = disk.path.display();
                    log::info!("disk '{path}': this host has no io_uring ({error}), requests go one by one");
                    None
                }
                Err(source) => return Err(BlockError::Engine { path: disk.path.clone(), source }),
            },
        };
        let mut block = Self::new(file, ring, limits);
        for (to, from) in block.id.iter_mut().zip(disk.id.iter().flat_map(|id| id.bytes())) {
            *to = from;
        }
        Ok(block)
    }

    fn new(disk: DiskFile, ring: Option<Ring>, limits: Limits) -> Self {
        Self {
            disk,
            ring,
            id: [0; VIRTIO_BLK_ID_BYTES as usize],
            config: Arc::new(ConfigSpace::read_only(&config::config(limits.capacity / SECTOR))),
            limits,
            stats: Arc::default(),
            segments: Vec::new(),
            buffers: Buffers::default(),
            write_through: false,
            complained: false,
        }
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        config::features(self.limits.read_only)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[config::QUEUE_SIZE]
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, interrupt, queues, stop } = activation;
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else {
            return Err(DeviceError::QueueMissing(0));
        };
        self.write_through = *features & config::bit(VIRTIO_BLK_F_FLUSH) == 0;
        if let Some(ring) = &mut self.ring {
            ring.attach(memory, self.write_through);
        }
        let served = self.serve(queue, memory, interrupt, stop);
        let drained = self.drain(queue, memory, interrupt);
        served.and(drained)
    }
}

impl Block {
    /// Takes requests and answers them until `stop` is readable.
    fn serve(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemoryMmap,
        interrupt: &Interrupt,
        stop: &EventFd,
    ) -> Result<(), DeviceError> {
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        poller.add(stop, STOP, EventSet::IN).map_err(DeviceError::host("watch for the stop"))?;
        // Each write to these events is an edge, so that they need not be read to hear the next one.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        poller.add(&queue.kick, KICK, edge).map_err(DeviceError::host("watch for kicks"))?;
        if let Some(ring) = &self.ring {
            let completed = ring.completed();
            poller.add(completed, COMPLETED, edge).map_err(DeviceError::host("watch for completions"))?;
        }
        // What came while nobody ran is there without a kick.
        let mut more = self.pass(queue, memory, interrupt)?;
        loop {
            let timeout = if more { 0 } else { -1 };
            let events = poller.wait(timeout).map_err(DeviceError::host("wait for kicks"))?;
            self.stats.wakeups.add(1);
            for (token, _) in events {
                match token {
                    STOP => return Ok(()),
                    KICK => self.stats.kicks.add(1),
                    _ => {}
                }
            }
            more = self.pass(queue, memory, interrupt)?;
        }
    }

    /// Takes what is available and answers what is done, with one interrupt for all of it. Answers whether
    /// there is more to do at once.
    fn pass(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemoryMmap,
        interrupt: &Interrupt,
    ) -> Result<bool, DeviceError> {
        if let Some(ring) = &mut self.ring {
            ring.work();
        }
        queue.ring.disable_notification(memory).map_err(broken)?;
        let answered = self.take(queue, memory)? | self.answer_finished(queue, memory)?;
        if answered && queue.ring.needs_notification(memory).map_err(broken)? {
            interrupt.used();
        }
        let available = queue.ring.enable_notification(memory).map_err(broken)?;
        let finished = self.ring.as_mut().is_some_and(Ring::listen);
        // With too much in flight, what is available waits for something to finish.
        Ok(finished || available && self.bytes_in_flight() < PASS_BYTES)
    }

    /// Takes available chains, up to a ring's worth and [`PASS_BYTES`]. Answers whether some were answered.
    fn take(&mut self, queue: &mut VirtQueue, memory: &GuestMemoryMmap) -> Result<bool, DeviceError> {
        let mut bytes = self.bytes_in_flight();
        let mut answered = false;
        for _ in 0..queue.ring.size() {
            if bytes >= PASS_BYTES {
                break;
            }
            let Some(chain) = queue.ring.iter(memory).map_err(broken)?.next() else {
                break;
            };
            let head = chain.head_index();
            if self.ring.as_ref().is_some_and(|ring| ring.holds(head)) {
                return Err(DeviceError::HeadInFlight { index: 0, head });
            }
            let request = request::parse(chain, memory, &self.limits, &mut self.segments)
                .ok_or(DeviceError::Chain { index: 0, head })?;
            bytes = bytes.saturating_add(request.work.bytes());
            let result = match &mut self.ring {
                Some(ring) if request.work.takes_time() => match ring.begin(&request, &self.segments) {
                    Ok(()) => continue,
                    Err(OutsideMemory) => Err(Failure::Refused(Status::IoError)),
                },
                _ => self.carry_out(&request, memory),
            };
            self.answer(queue, memory, &request, result)?;
            answered = true;
        }
        Ok(answered)
    }

    /// Starts what was begun, and answers what is finished. Tells whether there was such.
    fn answer_finished(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, DeviceError> {
        let mut answered = false;
        while let Some((request, result)) = self.ring.as_mut().and_then(Ring::next_finished) {
            let result = result.map(|()| request.work.bytes_read()).map_err(Failure::Host);
            self.answer(queue, memory, &request, result)?;
            answered = true;
        }
        Ok(answered)
    }

    /// Waits until nothing is in flight, whatever else goes wrong: guest memory is the driver's again then.
    fn drain(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemoryMmap,
        interrupt: &Interrupt,
    ) -> Result<(), DeviceError> {
        let mut result = Ok(false);
        while let Some(ring) = self.ring.as_mut().filter(|ring| !ring.is_idle()) {
            ring.wait();
            let answered = self.answer_finished(queue, memory);
            result = result.and_then(|before| Ok(before | answered?));
        }
        if result? && queue.ring.needs_notification(memory).map_err(broken)? {
            interrupt.used();
        }
        Ok(())
    }

    fn bytes_in_flight(&self) -> u64 {
        self.ring.as_ref().map_or(0, Ring::bytes)
    }

    /// Does what `request` asks for, its data in `self.segments`; gives the bytes put into guest memory.
    fn carry_out(&mut self, request: &Request, memory: &GuestMemoryMmap) -> Result<u64, Failure> {
        let (disk, segments) = (&self.disk, &self.segments);
        match &request.work {
            Work::Transfer(transfer) => {
                disk.transfer(*transfer, self.write_through, memory, segments, &mut self.buffers)?
            }
            Work::Flush => disk.flush()?,
            Work::Discard(range) => disk.discard(range)?,
            Work::WriteZeroes { range, unmap } => disk.write_zeroes(range, *unmap)?,
            Work::GetId => {
                return request::copy_to(memory, segments, &self.id).ok_or(Failure::Refused(Status::IoError));
            }
            Work::Refuse(status) => return Err(Failure::Refused(*status)),
        }
        Ok(request.work.bytes_read())
    }

    /// Gives `request` back to the driver with its status.
    fn answer(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemoryMmap,
        request: &Request,
        result: Result<u64, Failure>,
    ) -> Result<(), DeviceError> {
        self.stats.operations.add(1);
        let (status, read) = match result {
            Ok(read) => {
                self.stats.bytes_in.add(read);
                self.stats.bytes_out.add(request.work.bytes_written());
                (Status::Ok, read)
            }
            Err(failure) => {
                self.stats.errors.add(1);
                (self.status_of(failure), 0)
            }
        };
        memory
            .write_obj(status as u8, request.status)
            .map_err(|error| broken(virtio_queue::Error::GuestMemory(error)))?;
        // The count of what was written from the start on: the status only counts when all before it does.
        let written = if read == request.room { read.saturating_add(1) } else { read };
        queue.ring.add_used(memory, request.head, u32::try_from(written).unwrap_or(u32::MAX)).map_err(broken)
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
        if !self.complained {
            self.complained = true;
            log::warn!("block device: the host failed a request: {error}; further failures are only counted");
        }
        Status::IoError
    }
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

/// The device's only queue is broken.
fn broken(source: virtio_queue::Error) -> DeviceError {
    DeviceError::Queue { index: 0, source }
}
