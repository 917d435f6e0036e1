//! How a device tells its driver that something happened (virtio 1.2, section 2.3 and 4.2.3.3).
//!
//! One interrupt line a device. Its reason stands in the interrupt status, which the transport shows to the
//! driver. The worker raises it through an irqfd; no vCPU thread takes part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::DeviceStats;

/// Interrupt status bit: the device used a buffer.
pub const USED_BUFFER: u32 = 1;
/// Interrupt status bit: the configuration, or the device status, changed.
pub const CONFIG_CHANGE: u32 = 2;

/// The device's end of its interrupt line. Clones are the same line.
#[derive(Clone)]
pub struct Interrupt {
    line: Arc<Line>,
}

struct Line {
    status: AtomicU32,
    needs_reset: AtomicBool,
    irqfd: EventFd,
    stats: Arc<DeviceStats>,
}

impl Interrupt {
    /// The line behind `irqfd`, with nothing pending. Interrupts are counted in `stats`.
    pub fn new(irqfd: EventFd, stats: Arc<DeviceStats>) -> Self {
        let (status, needs_reset) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { line: Arc::new(Line { status, needs_reset, irqfd, stats }) }
    }

    /// Tells the driver that buffers were put into a used ring.
    pub fn used(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.raise(CONFIG_CHANGE);
    }

    /// Tells the driver that the device cannot go on without a reset (DEVICE_NEEDS_RESET, section 2.1.2).
    pub fn ask_for_reset(&self) {
        self.line.needs_reset.store(true, Ordering::Release);
        self.raise(CONFIG_CHANGE);
    }

    /// Whether [`Self::ask_for_reset`] was called since the last [`Self::clear`].
    pub fn reset_asked(&self) -> bool {
        self.line.needs_reset.load(Ordering::Acquire)
    }

    /// The pending reasons.
    pub fn status(&self) -> u32 {
        self.line.status.load(Ordering::Acquire)
    }

    /// Takes the reasons in `bits` as seen by the driver.
    pub fn acknowledge(&self, bits: u32) {
        self.line.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Nothing pending, as after a reset.
    pub fn clear(&self) {
        self.line.status.store(0, Ordering::Release);
        self.line.needs_reset.store(false, Ordering::Release);
    }

    /// The event to connect to the interrupt controller.
    pub fn irqfd(&self) -> &EventFd {
        &self.line.irqfd
    }

    fn raise(&self, reason: u32) {
        self.line.status.fetch_or(reason, Ordering::AcqRel);
        self.line.stats.interrupts.add(1);
        // The counter is full only when 2^64 - 1 interrupts wait: one more would tell the driver nothing new.
        self.line.irqfd.write(1).ok();
    }
}
