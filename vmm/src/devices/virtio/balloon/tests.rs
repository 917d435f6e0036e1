//! Tests of the balloon from its driver's side, hostile drivers included.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use rvm_config::MemorySize;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_STATUS};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Balloon, BalloonControl, DEFLATE, DEFLATE_ON_OOM, INFLATE, PAGE_REPORTING, REPORTING};
use crate::bus::BusDevice;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::interrupt::CONFIG_CHANGE;
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, Part};

/// A page in the three types that addresses, lengths in memory and lengths of descriptors have.
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
const PAGE_LENGTH: u32 = 4096;
/// RAM beside the driver's own: it meets that, and there is a hole up to the next.
const SECOND: u64 = MEMORY_SIZE as u64;
const SECOND_SIZE: u64 = 4 << 20;
const HIGH: u64 = 1 << 32;
const HIGH_SIZE: u64 = 2 << 20;
const NONE: [u64; 0] = [];

fn start(config: &str, features: u64) -> (Driver, BalloonControl) {
    let balloon = Balloon::new(&config.parse().unwrap(), MemorySize::from_mib(256));
    let control = balloon.control();
    let regions = [(0, MEMORY_SIZE as u64), (SECOND, SECOND_SIZE), (HIGH, HIGH_SIZE)];
    let regions = regions.map(|(start, size)| (GuestAddress(start), usize::try_from(size).unwrap()));
    let mut driver = Driver::with_memory(Box::new(balloon), &regions);
    driver.initialise(features);
    for region in &regions[1..] {
        driver.memory.write_slice(&vec![1; region.1], region.0).unwrap();
    }
    (driver, control)
}

fn driver() -> Driver {
    start("0", u64::MAX).0
}

/// Sends page numbers through `queue`.
fn send(driver: &mut Driver, queue: usize, numbers: &[u32]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let address = driver.place(&bytes);
    let length = u32::try_from(bytes.len()).unwrap();
    assert_eq!(driver.request(queue, &[Part::Readable(address, length)]), 0);
}

fn number(address: u64) -> u32 {
    u32::try_from(address / PAGE).unwrap()
}

/// The pages beside the driver's own memory that were given back, as addresses. They were full of ones.
fn given_back(driver: &Driver) -> Vec<u64> {
    let pages = (SECOND..SECOND + SECOND_SIZE).chain(HIGH..HIGH + HIGH_SIZE).step_by(PAGE_BYTES);
    pages
        .filter(|page| {
            let bytes = driver.bytes(*page, PAGE_BYTES);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a page is given back whole or not at all");
            bytes[0] == 0
        })
        .collect()
}

fn errors(driver: &Driver) -> u64 {
    driver.transport.stats().errors.get()
}

#[test]
fn inflated_pages_go_back_to_the_host_and_no_others() {
    let mut driver = driver();
    let pages = [SECOND + 7 * PAGE, SECOND + 6 * PAGE, SECOND + 9 * PAGE];
    send(&mut driver, INFLATE, &pages.map(number));
    // Before anything reads there.
    let range = driver.memory.get_slice(GuestAddress(pages[1]), 2 * PAGE_BYTES).unwrap();
    assert_eq!(resident(&range), 0, "the host has the memory");
    assert_eq!(given_back(&driver), [pages[1], pages[0], pages[2]]);
    let stats = driver.transport.stats();
    assert_eq!((stats.operations.get(), stats.bytes_out.get(), stats.errors.get()), (1, 3 * PAGE, 0));
}

/// How many of the pages of `range` the host has memory for.
#[allow(unsafe_code, reason = "mincore(2)")]
fn resident(range: &vm_memory::VolatileSlice<'_>) -> usize {
    let mut pages = vec![0_u8; range.len() / PAGE_BYTES];
    // SAFETY: the range is mapped, and `pages` has a byte for each of its pages.
    let result =
        unsafe { libc::mincore(range.ptr_guard_mut().as_ptr().cast(), range.len(), pages.as_mut_ptr()) };
    assert_eq!(result, 0);
    pages.into_iter().filter(|page| page & 1 != 0).count()
}

#[test]
fn deflated_pages_are_the_guests_again() {
    let mut driver = driver();
    send(&mut driver, INFLATE, &[number(SECOND)]);
    send(&mut driver, DEFLATE, &[number(SECOND)]);
    driver.memory.write_slice(&[5; PAGE_BYTES], GuestAddress(SECOND)).unwrap();
    assert_eq!(given_back(&driver), NONE);
    assert_eq!(driver.bytes(SECOND, 1), [5]);
}

#[test]
fn reported_ranges_go_back_to_the_host() {
    let mut driver = driver();
    let parts = [Part::Writable(SECOND, 2 << 20), Part::Writable(HIGH + PAGE, PAGE_LENGTH)];
    driver.request(REPORTING, &parts);
    let block = (SECOND..SECOND + (2 << 20)).step_by(PAGE_BYTES);
    assert_eq!(given_back(&driver), block.chain([HIGH + PAGE]).collect::<Vec<_>>());
    assert_eq!((driver.transport.stats().bytes_out.get(), errors(&driver)), ((2 << 20) + PAGE, 0));
}

#[test]
fn whether_the_driver_may_take_pages_back_is_a_feature() {
    let features =
        |config: &str| Balloon::new(&config.parse().unwrap(), MemorySize::from_mib(256)).features();
    for config in ["0", "0,deflate-on-oom=on"] {
        assert_eq!(features(config) & DEFLATE_ON_OOM, DEFLATE_ON_OOM, "{config}");
    }
    assert_eq!(features("0,deflate-on-oom=off") & DEFLATE_ON_OOM, 0);
    assert_eq!(features("0,deflate-on-oom=off") | DEFLATE_ON_OOM, features("0"), "and nothing else");
}

#[test]
fn without_reporting_there_are_two_queues() {
    let (mut driver, _) = start("0,reporting=off", u64::MAX);
    assert_eq!(driver.offered() & PAGE_REPORTING, 0);
    assert_eq!(driver.transport.kicks().len(), 2);
    send(&mut driver, INFLATE, &[number(SECOND)]);
    assert_eq!(given_back(&driver), [SECOND]);
}

#[test]
fn a_driver_that_did_not_take_reporting_reports_nothing() {
    let (mut driver, _) = start("0", !PAGE_REPORTING);
    driver.submit(REPORTING, &[Part::Writable(SECOND, PAGE_LENGTH)]);
    driver.kick(REPORTING);
    send(&mut driver, INFLATE, &[number(HIGH)]);
    assert_eq!(given_back(&driver), [HIGH]);
    assert_eq!(driver.used(REPORTING), None);
}

#[test]
fn page_numbers_at_and_beyond_every_edge_touch_only_the_guests_memory() {
    let mut driver = driver();
    let second_end = SECOND + SECOND_SIZE;
    let hostile = [second_end, HIGH - PAGE, HIGH + HIGH_SIZE].map(number);
    for number in hostile.into_iter().chain([u32::MAX, u32::MAX - 1, 1 << 31]) {
        send(&mut driver, INFLATE, &[number]);
    }
    assert_eq!(given_back(&driver), NONE);
    assert_eq!(errors(&driver), 6);

    // One run of numbers from the last page of a region into the hole, and one out of it.
    send(&mut driver, INFLATE, &[number(second_end - PAGE), number(second_end), number(second_end) + 1]);
    send(&mut driver, INFLATE, &[number(HIGH - PAGE), number(HIGH)]);
    assert_eq!(given_back(&driver), [second_end - PAGE, HIGH]);
    assert_eq!(errors(&driver), 8);
}

#[test]
fn numbers_given_twice_and_runs_across_adjacent_regions_are_no_error() {
    let mut driver = driver();
    let edge = number(SECOND);
    send(&mut driver, INFLATE, &[edge, edge - 1, edge, edge - 1]);
    send(&mut driver, INFLATE, &[edge]);
    assert_eq!((given_back(&driver), errors(&driver)), (vec![SECOND], 0));
}

#[test]
fn reported_ranges_are_cut_to_whole_pages_of_memory() {
    let mut driver = driver();
    let second_end = SECOND + SECOND_SIZE;
    let page = PAGE_LENGTH;
    for (address, length) in [
        (SECOND + 1, page),
        (SECOND, page - 1),
        (SECOND, 0),
        (second_end, page),
        (HIGH - PAGE, page),
        (HIGH + HIGH_SIZE, u32::MAX),
        (u64::MAX, u32::MAX),
        (u64::MAX - 10, 10),
        (u64::MAX - PAGE + 1, page),
    ] {
        driver.request(REPORTING, &[Part::Writable(address, length)]);
        assert_eq!(given_back(&driver), NONE, "{length:#x} at {address:#x}");
    }
    driver.request(REPORTING, &[Part::Writable(SECOND + 1, 3 * page)]);
    driver.request(REPORTING, &[Part::Writable(second_end - PAGE - 1, u32::MAX / 2)]);
    driver.request(REPORTING, &[Part::Writable(HIGH - 0x8000_0000, 0x8000_0000 + page)]);
    assert_eq!(given_back(&driver), [SECOND + PAGE, SECOND + 2 * PAGE, second_end - PAGE, HIGH]);
    // All but the empty one.
    assert_eq!(errors(&driver), 11);
}

#[test]
fn chains_in_the_wrong_direction_are_counted_and_change_nothing() {
    let mut driver = driver();
    let numbers = driver.place(&number(SECOND).to_le_bytes());
    driver.request(INFLATE, &[Part::Writable(numbers, 4)]);
    driver.request(REPORTING, &[Part::Readable(SECOND, PAGE_LENGTH)]);
    driver.request(INFLATE, &[Part::Readable(HIGH + HIGH_SIZE, 4)]);
    assert_eq!(given_back(&driver), NONE);
    assert!(errors(&driver) >= 2);
    send(&mut driver, INFLATE, &[number(SECOND)]);
    assert_eq!(given_back(&driver), [SECOND]);
}

#[test]
fn more_numbers_than_a_chain_may_have_are_left_out_and_counted() {
    let mut driver = driver();
    let address = driver.place(&[0; 4]);
    // The same megabytes of memory over and over: 60 times 15 MiB of page numbers.
    let parts = vec![Part::Readable(address, 15 << 20); 60];
    driver.request(INFLATE, &parts);
    assert_eq!(errors(&driver), 1);
}

#[test]
fn the_target_is_told_at_start_and_when_it_changes() {
    let (mut driver, control) = start("3", u64::MAX);
    let mut pages = [0; 4];
    driver.transport.read(0x100, &mut pages);
    assert_eq!(u32::from_le_bytes(pages), 768);

    let generation = driver.register(VIRTIO_MMIO_CONFIG_GENERATION);
    control.set_target(MemorySize::from_mib(5), driver.transport.interrupt());
    assert_eq!(driver.wait_interrupt(), CONFIG_CHANGE);
    driver.transport.read(0x100, &mut pages);
    assert_eq!(u32::from_le_bytes(pages), 1280);
    assert_ne!(driver.register(VIRTIO_MMIO_CONFIG_GENERATION), generation);
}

#[test]
fn the_driver_tells_its_size_and_cannot_change_the_target() {
    let (mut driver, control) = start("3", u64::MAX);
    driver.transport.write(0x100, &[0xff; 4]);
    driver.transport.write(0x104, &256_u32.to_le_bytes());
    let mut pages = [0; 4];
    driver.transport.read(0x100, &mut pages);
    assert_eq!((u32::from_le_bytes(pages), control.actual()), (768, 1 << 20));
    driver.set_register(VIRTIO_MMIO_STATUS, 0);
    driver.initialise(u64::MAX);
    // Once a chain is used, the reset before is through.
    send(&mut driver, DEFLATE, &[]);
    assert_eq!(control.actual(), 0);
}

#[test]
fn resets_and_pauses_under_a_flood_leave_a_balloon_that_works() {
    let mut driver = driver();
    let numbers = driver.place(&number(SECOND).to_le_bytes());
    for round in 0..50 {
        for _ in 0..20 {
            driver.submit(INFLATE, &[Part::Readable(numbers, 4)]);
            driver.submit(REPORTING, &[Part::Writable(HIGH, PAGE_LENGTH)]);
        }
        driver.kick(INFLATE);
        driver.kick(REPORTING);
        match round % 2 {
            0 => driver.initialise(u64::MAX),
            _ => {
                driver.transport.pause();
                driver.transport.resume();
                for _ in 0..20 {
                    driver.wait_used(INFLATE);
                    driver.wait_used(REPORTING);
                }
            }
        }
    }
    send(&mut driver, INFLATE, &[number(SECOND) + 1]);
    assert!(given_back(&driver).contains(&(SECOND + PAGE)));
}
