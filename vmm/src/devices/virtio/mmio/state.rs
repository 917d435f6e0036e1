//! What a driver has made of a device's transport: plain data, all that a reset takes back.
//!
//! What else there is in a transport is the VMM's (memory, events, the worker) or the device's own (its configuration, its
//! counters).

use virtio_queue::QueueState;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The registers.
    pub registers: Registers,
    /// The queues as far as the device has come with them, by their index.
    pub queues: Vec<QueueState>,
    /// Reasons of the interrupt that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// The device cannot go on without a reset.
    pub reset_asked: bool,
}

/// The registers that a reset clears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Status, without DEVICE_NEEDS_RESET.
    pub status: u32,
    /// DeviceFeaturesSel.
    pub device_features_select: u32,
    /// DriverFeaturesSel.
    pub driver_features_select: u32,
    /// DriverFeatures, both halves.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_select: u32,
}
