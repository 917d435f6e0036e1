//! Entropy device (virtio 1.2, section 5.4): fills the driver's buffers with random bytes of the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};
use crate::event_loop::Poller;

/// Most bytes given for one buffer. Drivers ask again for more; a host never works long for one request.
const MOST_BYTES: usize = 4096;

const STOP: u64 = 0;
const REQUESTS: u64 = 1;

/// The entropy device.
pub struct Rng {
    source: File,
    stats: Arc<DeviceStats>,
}

impl Rng {
    /// A device that gives what the host's /dev/urandom gives. Fails when that cannot be opened.
    pub fn new() -> io::Result<Self> {
        Ok(Self { source: File::open("/dev/urandom")?, stats: Arc::default() })
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> Arc<ConfigSpace> {
        Arc::new(ConfigSpace::read_only(&[]))
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, interrupt, queues, stop, .. } = activation;
        let [queue] = queues.as_mut_slice() else {
            return Err(DeviceError::QueueMissing(0));
        };
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        poller.add(stop, STOP, EventSet::IN).map_err(DeviceError::host("watch for the stop"))?;
        poller.add(&queue.kick, REQUESTS, EventSet::IN).map_err(DeviceError::host("watch for kicks"))?;
        loop {
            let events = poller.wait(-1).map_err(DeviceError::host("wait for kicks"))?;
            self.stats.wakeups.add(1);
            for (token, _) in events {
                if token == STOP {
                    return Ok(());
                }
                queue.kick.read().ok();
                self.stats.kicks.add(1);
                let wanted = queue.serve(memory, |chain| self.give(memory, chain));
                if wanted.map_err(DeviceError::queue(0))? {
                    interrupt.used();
                }
            }
        }
    }

    fn reset(&mut self) {
        let Self { source: _, stats: _ } = self;
    }
}

impl Rng {
    /// Fills one buffer; gives the bytes written.
    fn give(&self, memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> u32 {
        self.stats.operations.add(1);
        let buffer = chain.writer(memory).map_err(io::Error::other);
        match buffer.and_then(|mut buffer| self.fill(&mut buffer)) {
            Ok(written) => {
                self.stats.bytes_in.add(written.into());
                written
            }
            Err(_) => {
                self.stats.errors.add(1);
                0
            }
        }
    }

    /// Writes random bytes into `buffer`, [`MOST_BYTES`] at most; gives their number.
    fn fill(&self, buffer: &mut impl Write) -> io::Result<u32> {
        let mut bytes = [0; MOST_BYTES];
        (&self.source).read_exact(&mut bytes)?;
        let written = buffer.write(&bytes)?;
        Ok(u32::try_from(written).unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::{Driver, Part};

    #[test]
    fn a_buffer_is_filled_with_random_bytes() {
        let mut driver = Driver::start(Box::new(Rng::new().unwrap()), u64::MAX);
        let buffer = driver.allocate(256);
        assert_eq!(driver.request(0, &[Part::Writable(buffer, 256)]), 256);
        let first = driver.bytes(buffer, 256);
        driver.request(0, &[Part::Writable(buffer, 256)]);
        assert_ne!(first, driver.bytes(buffer, 256));
    }
}
