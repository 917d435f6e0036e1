//! Counters of one device, written by its worker and read by whoever prints statistics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a device has done since the VM was started. Directions are the guest's.
#[derive(Debug, Default)]
pub struct DeviceStats {
    /// Requests, packets or buffers completed.
    pub operations: Counter,
    /// Bytes the guest received or read.
    pub bytes_in: Counter,
    /// Bytes the guest sent or wrote.
    pub bytes_out: Counter,
    /// Requests or packets that failed or were dropped.
    pub errors: Counter,
    /// Wake-ups by the driver.
    pub kicks: Counter,
    /// Times the worker woke up, for whatever reason.
    pub wakeups: Counter,
    /// Interrupts given to the driver.
    pub interrupts: Counter,
}
