//! Memory balloon (virtio 1.2, section 5.5): memory that the guest does without goes back to the host.
//!
//! ```text
//!   queue 0  inflate    page numbers    ──> given back; the guest keeps off these pages
//!   queue 1  deflate    page numbers    ──> nothing to do: a page touched again is a new one of the host
//!   queue 2  reporting  ranges of pages ──> given back; the guest uses them again whenever it likes
//! ```
//!
//! Queues are numbered by the features that were negotiated (5.5.2); statistics and free page hints are not
//! offered, so reporting is 2. Statistics of the guest are the agent's to tell.
//!
//! What is given back is RAM of the guest, whole pages of it: a number or a range that reaches outside is cut
//! to what is inside, and counted as an error. Pages read as zero afterwards, which is what a driver expects
//! that did not negotiate VIRTIO_BALLOON_F_PAGE_POISON (5.5.6.7).

mod pages;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rvm_config::MemorySize;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, Interrupt, VirtioDevice};
use crate::event_loop::Poller;
use crate::memory;
use pages::{PAGE_SHIFT, PageNumbers};

/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the driver may take pages back rather than run out of memory.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_PAGE_REPORTING: the driver reports free pages.
const PAGE_REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;

/// Offset of `num_pages`, the pages that the driver shall give (5.5.4).
const TARGET: usize = 0;
/// Offset of `actual`, the pages that it says it has given.
const ACTUAL: usize = 4;
const CONFIG_SIZE: usize = 8;

/// Most ranges taken from one report: what a chain without an indirect table can hold.
const MOST_RANGES: usize = QUEUE_SIZE as usize;
/// Linux reports 32 ranges at a time, and one chain of page numbers.
const QUEUE_SIZE: u16 = 64;

const STOP: u64 = u64::MAX;

/// The balloon.
pub struct Balloon {
    features: u64,
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
}

/// The size of a balloon, to be read and set while its machine runs.
#[derive(Clone)]
pub struct BalloonControl {
    config: Arc<ConfigSpace>,
}

impl Balloon {
    /// A balloon as `config` describes it, for a guest with so much memory.
    pub fn new(config: &rvm_config::Balloon, memory: MemorySize) -> Self {
        let mut features = 1 << VIRTIO_RING_F_EVENT_IDX;
        features |= if config.deflate_on_oom { DEFLATE_ON_OOM } else { 0 };
        features |= if config.reports_free_pages(memory) { PAGE_REPORTING } else { 0 };
        let balloon = Self {
            features,
            config: Arc::new(ConfigSpace::new(&[0; CONFIG_SIZE], ACTUAL..CONFIG_SIZE)),
            stats: Arc::default(),
        };
        balloon.config.update(TARGET, &pages_in(config.size).to_le_bytes());
        balloon
    }

    /// A handle for the time when the device is behind its transport.
    pub fn control(&self) -> BalloonControl {
        BalloonControl { config: self.config.clone() }
    }
}

impl BalloonControl {
    /// Asks the driver to let the balloon grow or shrink to `size`. `interrupt` is the device's.
    pub fn set_target(&self, size: MemorySize, interrupt: &Interrupt) {
        self.config.update(TARGET, &pages_in(size).to_le_bytes());
        interrupt.config_changed();
    }

    /// Bytes in the balloon as the driver tells: a guest may tell anything.
    pub fn actual(&self) -> u64 {
        let mut pages = [0; 4];
        self.config.read(ACTUAL, &mut pages);
        u64::from(u32::from_le_bytes(pages)) << PAGE_SHIFT
    }
}

/// `size` in pages of 4 KiB; as many as there are numbers for, if it is more.
fn pages_in(size: MemorySize) -> u32 {
    u32::try_from(size.bytes() >> PAGE_SHIFT).unwrap_or(u32::MAX)
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &'static [u16] {
        match self.features & PAGE_REPORTING {
            0 => &[QUEUE_SIZE; 2],
            _ => &[QUEUE_SIZE; 3],
        }
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, interrupt, queues, stop } = activation;
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        poller.add(stop, STOP, EventSet::IN).map_err(DeviceError::host("watch for the stop"))?;
        for (index, queue) in queues.iter().enumerate() {
            let wanted = index != REPORTING || *features & PAGE_REPORTING != 0;
            match queue.ready() {
                true if wanted => poller
                    .add(&queue.kick, index as u64, EventSet::IN)
                    .map_err(DeviceError::host("watch for kicks"))?,
                false if wanted => return Err(DeviceError::QueueMissing(index)),
                _ => {}
            }
        }
        loop {
            let events = poller.wait(-1).map_err(DeviceError::host("wait for kicks"))?;
            self.stats.wakeups.add(1);
            for (token, _) in events {
                let index = match usize::try_from(token) {
                    Ok(index) if token != STOP => index,
                    _ => return Ok(()),
                };
                let Some(queue) = queues.get_mut(index) else {
                    continue;
                };
                queue.kick.read().ok();
                self.stats.kicks.add(1);
                let served = queue.serve(memory, |chain| self.take(index, memory, chain));
                if served.map_err(DeviceError::queue(index))? {
                    interrupt.used();
                }
            }
        }
    }

    fn reset(&mut self) {
        let Self { features: _, config, stats: _ } = self;
        // A driver starts with an empty balloon.
        config.update(ACTUAL, &[0; 4]);
    }
}

impl Balloon {
    /// Does what a chain of queue `index` asks for. Nothing is ever written into the driver's buffers.
    fn take(&self, index: usize, memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> u32 {
        self.stats.operations.add(1);
        let whole = match index {
            INFLATE => self.inflate(memory, chain),
            DEFLATE => true,
            _ => self.report(memory, chain),
        };
        if !whole {
            self.stats.errors.add(1);
        }
        0
    }

    /// Gives the pages back whose numbers are in `chain`. Answers whether all of it could be taken.
    fn inflate(&self, memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> bool {
        let Ok(mut reader) = chain.reader(memory) else {
            return false;
        };
        let numbers = PageNumbers::read(&mut reader);
        let mut whole = numbers.complete;
        for (start, length) in numbers.ranges() {
            whole &= give_back(memory, &self.stats, start, length);
        }
        whole
    }

    /// Gives the ranges back that `chain` describes: the driver's writable buffers are the free pages.
    fn report(&self, memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> bool {
        let (mut whole, mut ended) = (true, false);
        for descriptor in chain.take(MOST_RANGES) {
            ended = !descriptor.has_next();
            whole &= descriptor.is_write_only()
                && give_back(memory, &self.stats, descriptor.addr().0, descriptor.len().into());
        }
        whole && ended
    }
}

/// Gives a range of guest memory back to the host, counting it. Answers whether all of it was RAM in whole pages.
fn give_back(memory: &GuestMemoryMmap, stats: &DeviceStats, start: u64, length: u64) -> bool {
    let given = memory::give_back(memory, start, length).unwrap_or(0);
    stats.bytes_out.add(given);
    given == length
}
