//! The transport as a driver meets it, in order and out of it.
#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_VERSION,
};

use super::*;
use crate::bus::BusDevice;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{Driver, Part};

fn driver() -> Driver {
    Driver::new(Box::new(Rng::new().unwrap()))
}

fn running() -> Driver {
    Driver::start(Box::new(Rng::new().unwrap()), u64::MAX)
}

#[test]
fn the_identity_is_that_of_a_modern_device() {
    let mut driver = driver();
    assert_eq!(driver.register(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.register(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.register(VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(driver.register(VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    assert_eq!([0xb0, 0xb4].map(|half| driver.register(half)), [u32::MAX; 2], "no shared memory");
}

#[test]
fn the_status_only_moves_forward_and_step_by_step() {
    let mut driver = driver();
    for (value, then) in [(4, 0), (2, 0), (15, 0), (1, 1), (0x80, 0), (1, 1), (7, 1), (3, 3), (1, 3), (2, 3)]
    {
        driver.set_register(VIRTIO_MMIO_STATUS, value);
        let status = driver.register(VIRTIO_MMIO_STATUS);
        if value == 0x80 {
            assert_eq!(status, 1, "a write that takes ACKNOWLEDGE away is refused");
            continue;
        }
        assert_eq!(status, then, "after writing {value:#x}");
    }
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    for (page, features) in [(0, 1), (1, 1 << 31), (1, 0)] {
        let mut driver = driver();
        driver.set_register(VIRTIO_MMIO_STATUS, 1);
        driver.set_register(VIRTIO_MMIO_STATUS, 3);
        driver.set_register(VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
        driver.set_register(VIRTIO_MMIO_DRIVER_FEATURES, features);
        driver.set_register(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 3);
    }
}

#[test]
fn queue_registers_are_frozen_while_the_device_runs() {
    let mut driver = running();
    for register in (0..0x100).step_by(4) {
        if ![VIRTIO_MMIO_STATUS, 0x50].contains(&register) {
            driver.set_register(register, 0xdead_beef);
        }
    }
    driver.set_register(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.set_register(VIRTIO_MMIO_QUEUE_DESC_LOW, 0xffff_fff0);
    let buffer = driver.allocate(16);
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 16)]), 16);
}

/// Lengths of a vCPU's access.
const LENGTHS: [usize; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn accesses_that_are_not_aligned_and_of_four_bytes_reach_no_register() {
    let mut driver = running();
    let registers =
        |driver: &mut Driver| (0..0x100).step_by(4).map(|offset| driver.register(offset)).collect::<Vec<_>>();
    let before = registers(&mut driver);
    for (offset, length) in (0..0x100).flat_map(|offset| LENGTHS.map(|length| (offset, length))) {
        if length == 4 && offset % 4 == 0 {
            continue;
        }
        for byte in [0, 1, 0xff] {
            driver.transport.write(offset, &[byte; 8][..length]);
        }
        let mut data = [0xff; 8];
        driver.transport.read(offset, &mut data[..length]);
        assert_eq!(data[..length], [0; 8][..length], "{length} bytes at {offset:#x}");
    }
    assert_eq!(registers(&mut driver), before);
    let buffer = driver.allocate(16);
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 16)]), 16);
}

#[test]
fn behind_a_devices_configuration_there_is_nothing() {
    let mut driver = running();
    let config = u64::from(VIRTIO_MMIO_CONFIG);
    for (offset, length) in (config..REGISTERS_SIZE).flat_map(|offset| LENGTHS.map(|length| (offset, length)))
    {
        let mut data = [0xff; 8];
        driver.transport.write(offset, &data[..length]);
        driver.transport.read(offset, &mut data[..length]);
        assert_eq!(data[..length], [0; 8][..length], "{length} bytes at {offset:#x}");
    }
    let buffer = driver.allocate(16);
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 16)]), 16);
}

#[test]
fn a_queue_outside_of_memory_asks_for_a_reset_and_a_reset_helps() {
    let mut driver = driver();
    for status in [1, 3] {
        driver.set_register(VIRTIO_MMIO_STATUS, status);
    }
    driver.set_register(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.set_register(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.set_register(VIRTIO_MMIO_STATUS, 11);
    driver.set_register(VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    driver.set_register(VIRTIO_MMIO_QUEUE_READY, 1);
    driver.set_register(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 15 | 64);

    driver.initialise(u64::MAX);
    let buffer = driver.allocate(16);
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 16)]), 16);
}

#[test]
fn an_available_index_that_jumps_asks_for_a_reset() {
    let mut driver = running();
    for _ in 0..65 {
        driver.repost(0, 0);
    }
    driver.kick(0);
    driver.wait_needs_reset();
}

#[test]
fn a_reset_while_requests_are_queued_stops_and_starts_again() {
    let mut driver = running();
    let buffer = driver.allocate(64);
    for _ in 0..50 {
        for _ in 0..32 {
            driver.submit(0, &[Part::Writable(buffer, 64)]);
        }
        driver.kick(0);
        driver.initialise(u64::MAX);
    }
    assert_eq!(driver.request(0, &[Part::Writable(buffer, 64)]), 64);
}

#[test]
fn a_transport_comes_apart_into_its_device_and_what_the_driver_made_of_the_rest() {
    let mut driver = running();
    let buffer = driver.allocate(16);
    for _ in 0..3 {
        driver.request(0, &[Part::Writable(buffer, 16)]);
    }
    let (device, state) = driver.transport.into_parts();
    assert_eq!((device.kind(), state.registers.status, state.reset_asked), (DeviceKind::Rng, 15, false));
    let [queue] = state.queues[..] else { panic!("{state:?}") };
    assert_eq!((queue.ready, queue.desc_table, queue.next_avail, queue.next_used), (true, 0x1_0000, 3, 3));

    let (device, unused) = Driver::new(device).transport.into_parts();
    assert_ne!(unused, state);
    let mut reset = Driver::start(device, u64::MAX);
    reset.repost(0, 64);
    reset.kick(0);
    reset.wait_needs_reset();
    reset.set_register(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(reset.transport.into_parts().1, unused, "a reset takes all of it back");
}

#[test]
fn a_failed_driver_is_heard_again_only_after_a_reset() {
    let mut driver = driver();
    driver.set_register(VIRTIO_MMIO_STATUS, 1);
    driver.set_register(VIRTIO_MMIO_STATUS, 0x81);
    driver.set_register(VIRTIO_MMIO_STATUS, 0x83);
    assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 0x81);
    driver.set_register(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.register(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_paused_device_goes_on_where_it_stopped() {
    let mut driver = running();
    let buffer = driver.allocate(16);
    driver.request(0, &[Part::Writable(buffer, 16)]);
    driver.transport.pause();
    driver.submit(0, &[Part::Writable(buffer, 16)]);
    driver.kick(0);
    assert_eq!(driver.used(0), None);
    driver.transport.resume();
    assert_eq!(driver.wait_used(0).1, 16);
}

#[test]
fn selectors_beyond_the_queues_read_as_nothing() {
    let mut driver = driver();
    for select in [1, 0xffff, 0x1_0000, u32::MAX] {
        driver.set_register(VIRTIO_MMIO_QUEUE_SEL, select);
        assert_eq!(driver.register(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        assert_eq!(driver.register(VIRTIO_MMIO_QUEUE_READY), 0);
    }
    driver.transport.write(QUEUE_NOTIFY, &u32::MAX.to_le_bytes());
}
