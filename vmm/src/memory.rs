//! The guest's memory: anonymous, private, not reserved, in huge pages where the host gives them.
//!
//! Nothing is touched here: a page of the host is taken when the guest, or the VMM for it, first uses it.

#![allow(unsafe_code, reason = "mappings are placed by address, which the borrow checker cannot see")]

use std::io;
use std::ops::Range;

use nix::libc;
use rvm_config::MemorySize;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::arch::native::layout;

/// Why the guest's memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More than the host has.
    #[error("the host has {host} of memory, less than the {asked} asked for the guest; ask for less")]
    Host {
        /// The configuration's.
        asked: MemorySize,
        /// All of the host's.
        host: MemorySize,
    },
    /// The host refused the mapping.
    #[error("cannot map {asked} of memory for the guest (a memory limit of this process?)")]
    Map {
        /// The configuration's.
        asked: MemorySize,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}

/// Alignment of the mapping, so that huge pages of the host are huge pages of the guest.
const HUGE_PAGE: usize = 2 << 20;

/// A page of the host.
const PAGE_SIZE: usize = 4096;

/// Maps `size` of memory at the addresses of [`layout::ram`]. It stays mapped until the process ends.
pub fn allocate(size: MemorySize) -> Result<GuestMemoryMmap, MemoryError> {
    let host = host_memory();
    if host.is_some_and(|host| host < size) {
        let host = host.unwrap_or(size);
        return Err(MemoryError::Host { asked: size, host });
    }
    let regions: io::Result<Vec<_>> =
        layout::ram(size).into_iter().map(|(start, length)| region(start, length)).collect();
    let memory = regions.and_then(|regions| GuestMemoryMmap::from_regions(regions).map_err(io::Error::other));
    memory.map_err(|source| MemoryError::Map { asked: size, source })
}

/// All memory of the host; `None` if it does not say.
fn host_memory() -> Option<MemorySize> {
    let info = nix::sys::sysinfo::sysinfo().ok()?;
    u32::try_from(info.ram_total() >> 20).ok().map(MemorySize::from_mib)
}

/// One region of guest memory.
fn region(start: u64, length: u64) -> io::Result<GuestRegionMmap> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let address = map_aligned(length)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let builder = MmapRegionBuilder::new(length).with_mmap_prot(protection).with_mmap_flags(FLAGS);
    // SAFETY: `map_aligned` mapped `length` bytes at `address` with these flags, and nothing unmaps them.
    let builder = unsafe { builder.with_raw_mmap_pointer(address) };
    let region = builder.build().map_err(io::Error::other)?;
    GuestRegionMmap::new(region, GuestAddress(start)).ok_or_else(|| io::Error::other("the region wraps"))
}

const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Maps `length` zeroed bytes at a multiple of [`HUGE_PAGE`].
fn map_aligned(length: usize) -> io::Result<*mut u8> {
    let around = length.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody.
    let found = unsafe { libc::mmap(std::ptr::null_mut(), around, libc::PROT_NONE, FLAGS, -1, 0) };
    if found == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let skip = found.align_offset(HUGE_PAGE);
    let aligned = found.wrapping_byte_add(skip);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is part of the mapping made above, which nobody else knows of.
    let mapped = unsafe { libc::mmap(aligned, length, protection, FLAGS | libc::MAP_FIXED, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // The strips before and after stay: addresses without memory, a guard against overruns.
    // SAFETY: advice on the mapping just made; without huge pages it has no effect.
    unsafe { libc::madvise(mapped, length, libc::MADV_HUGEPAGE) };
    Ok(mapped.cast())
}

/// Gives the host's memory behind the guest's pages `start..start + length` back; they read as zero after.
///
/// Parts of the range that are not RAM, or not whole pages, are left as they are. Bytes given back are
/// answered.
pub fn give_back(memory: &GuestMemoryMmap, start: u64, length: u64) -> io::Result<u64> {
    const PAGE: u64 = PAGE_SIZE as u64;
    let mut given = 0;
    for region in memory.iter() {
        let region_start = region.start_addr().0;
        let region_end = region_start + region.len();
        let Some(from) = start.max(region_start).checked_next_multiple_of(PAGE) else {
            continue;
        };
        let to = start.saturating_add(length).min(region_end) / PAGE * PAGE;
        let Some(bytes) = to.checked_sub(from).filter(|bytes| *bytes > 0) else {
            continue;
        };
        let address = memory.get_host_address(GuestAddress(from)).map_err(io::Error::other)?;
        let count = usize::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the range lies within one region of guest memory, whose contents are the guest's to lose.
        let result = unsafe { libc::madvise(address.cast(), count, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        advise_given_back(region, address, count);
        given += bytes;
    }
    Ok(given)
}

/// Tells the host what is to become of its huge pages behind `length` bytes at `start`, which were given back.
///
/// Those of which only a part was given back are to stay in pieces: the host's khugepaged would make them whole
/// again some seconds later, of memory that nobody asked for. Those given back whole may come back whole.
fn advise_given_back(region: &GuestRegionMmap, start: *mut u8, length: usize) {
    let (start, end) = (start.addr(), start.addr().saturating_add(length));
    let down = |address: usize| address / HUGE_PAGE * HUGE_PAGE;
    let up = |address: usize| down(address.saturating_add(HUGE_PAGE - 1));
    let (whole_from, whole_to) = (up(start), down(end));
    if whole_from < whole_to {
        advise(region, down(start)..whole_from, libc::MADV_NOHUGEPAGE);
        advise(region, whole_from..whole_to, libc::MADV_HUGEPAGE);
        advise(region, whole_to..up(end), libc::MADV_NOHUGEPAGE);
    } else {
        advise(region, down(start)..up(end), libc::MADV_NOHUGEPAGE);
    }
}

/// Has the host take single pages where `used` leaves most of a huge page unused, of those that lie between its first address
/// and its last, which are in memory. What comes before and after is for the guest to fill.
pub fn leave_gaps(memory: &GuestMemoryMmap, used: &[Range<u64>]) {
    const HUGE: u64 = HUGE_PAGE as u64;
    let (Some(start), Some(end)) =
        (used.iter().map(|used| used.start).min(), used.iter().map(|used| used.end).max())
    else {
        return;
    };
    for page in start.div_ceil(HUGE)..end / HUGE {
        let page = page * HUGE..(page + 1) * HUGE;
        let in_page = |used: &Range<u64>| used.end.min(page.end).saturating_sub(used.start.max(page.start));
        let region = memory.find_region(GuestAddress(page.start));
        if let Some(region) = region.filter(|_| used.iter().map(in_page).sum::<u64>() < HUGE / 8)
            && let Ok(address) = memory.get_host_address(GuestAddress(page.start))
        {
            advise(region, address.addr()..address.addr().saturating_add(HUGE_PAGE), libc::MADV_NOHUGEPAGE);
        }
    }
}

/// Gives advice on the part of `addresses` that is the region's mapping.
fn advise(region: &GuestRegionMmap, addresses: Range<usize>, advice: i32) {
    let mapping = region.as_ptr();
    let from = addresses.start.max(mapping.addr());
    let to = addresses.end.min(mapping.addr().saturating_add(region.size()));
    if from < to {
        // SAFETY: the range lies within the region's mapping, and these kinds of advice change nothing in it. They
        // are refused by a host without huge pages, or when it tells no more ranges apart: nothing is lost then.
        unsafe { libc::madvise(mapping.with_addr(from).cast(), to - from, advice) };
    }
}

/// Bytes of the host's memory behind the guest's pages: of those in use, not of those in the host's swap.
pub fn resident(memory: &GuestMemoryMmap) -> u64 {
    /// Pages that one call tells of: 256 MiB.
    const PAGES: usize = 64 << 10;
    let mut present = vec![0_u8; PAGES];
    let mut pages = 0_usize;
    for region in memory.iter() {
        let length = usize::try_from(region.len()).unwrap_or(usize::MAX);
        for start in (0..length).step_by(PAGES * PAGE_SIZE) {
            let count = (length - start).min(PAGES * PAGE_SIZE);
            let address = region.as_ptr().wrapping_add(start);
            // SAFETY: the range is one of the region's mapping, and `present` has a byte for each of its pages.
            let answer = unsafe { libc::mincore(address.cast(), count, present.as_mut_ptr()) };
            // Fails only on memory that is not mapped, or when the host has none left to answer with.
            if answer == 0 {
                let told = present.iter().take(count.div_ceil(PAGE_SIZE));
                pages += told.filter(|page| **page & 1 != 0).count();
            }
        }
    }
    (pages * PAGE_SIZE) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_is_aligned_for_huge_pages_and_reads_as_zero() {
        let memory = allocate(MemorySize::from_mib(64)).unwrap();
        let address = memory.get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(address.align_offset(HUGE_PAGE), 0);
        assert_eq!(memory.read_obj::<u64>(GuestAddress((64 << 20) - 8)).unwrap(), 0);
    }

    #[test]
    fn memory_is_resident_once_it_is_touched_and_until_it_is_given_back() {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20), (GuestAddress(1 << 30), 8 << 20)]);
        let memory = memory.unwrap();
        assert_eq!(resident(&memory), 0);
        for start in [0, 1 << 30] {
            memory.write_slice(&vec![1; 8 << 20], GuestAddress(start)).unwrap();
        }
        assert_eq!(resident(&memory), 16 << 20);
        give_back(&memory, 1 << 30, 4 << 20).unwrap();
        assert_eq!(resident(&memory), 12 << 20);
    }

    #[test]
    fn huge_pages_given_back_in_part_are_left_in_pieces() {
        let memory = allocate(MemorySize::from_mib(64)).unwrap();
        let start = memory.get_host_address(GuestAddress(0)).unwrap().addr();
        let advised: Vec<&str> = advice(start..start + (64 << 20)).into_values().collect();
        if advised == [""] {
            // A host without huge pages, whose khugepaged makes none.
            return;
        }
        assert_eq!(advised, ["hg"]);

        // The second half of the first huge page, the two behind it, and a page of the fourth.
        give_back(&memory, 1 << 20, (5 << 20) + PAGE_SIZE as u64).unwrap();
        // In the middle of one.
        give_back(&memory, 33 << 20, 128 << 10).unwrap();

        let expected = [(0, "nh"), (2, "hg"), (6, "nh"), (8, "hg"), (32, "nh"), (34, "hg")];
        let expected = expected.map(|(mib, advice)| (start + (mib << 20), advice));
        assert_eq!(advice(start..start + (64 << 20)), BTreeMap::from(expected));

        give_back(&memory, 0, 64 << 20).unwrap();
        assert_eq!(advice(start..start + (64 << 20)), BTreeMap::from([(start, "hg")]));
    }

    #[test]
    fn a_huge_page_of_which_little_is_used_is_left_in_pieces() {
        let memory = allocate(MemorySize::from_mib(64)).unwrap();
        let start = memory.get_host_address(GuestAddress(0)).unwrap().addr();
        let mib = |from: u64, to: u64| from << 20..to << 20;
        // Huge pages from 4 MiB on: two used, two with next to nothing, one half used, and one that the last begins.
        leave_gaps(&memory, &[mib(3, 8), 8 << 20..(8 << 20) + 1, mib(13, 14), 14 << 20..(14 << 20) + 1]);
        let advised = advice(start..start + (64 << 20));
        let expected = [(0, "hg"), (8, "nh"), (12, "hg")].map(|(mib, advice)| (start + (mib << 20), advice));
        assert!(
            advised == BTreeMap::from(expected) || advised == BTreeMap::from([(start, "")]),
            "{advised:?}"
        );
        leave_gaps(&memory, &[]);
    }

    /// The advice on huge pages that the host follows, by the start of each of its mappings in `addresses`.
    fn advice(addresses: Range<usize>) -> BTreeMap<usize, &'static str> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut advice, mut start) = (BTreeMap::new(), 0);
        for line in maps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            if let Some((from, _)) = first.split_once('-') {
                start = usize::from_str_radix(from, 16).unwrap();
            } else if first == "VmFlags:" && addresses.contains(&start) {
                let flag = |flag: &&str| rest.split(' ').any(|word| word == *flag);
                advice.insert(start, ["hg", "nh"].into_iter().find(flag).unwrap_or_default());
            }
        }
        advice
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let asked = MemorySize::from_mib(u32::MAX);
        assert!(matches!(allocate(asked), Err(MemoryError::Host { .. })));
    }

    #[test]
    fn pages_given_back_read_as_zero_and_no_others_do() {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x8000), 0x4000)])
                .unwrap();
        for start in [0, 0x8000] {
            memory.write_slice(&[1; 0x4000], GuestAddress(start)).unwrap();
        }
        assert_eq!(give_back(&memory, 0x2800, 0x6800).unwrap(), 0x1000 + 0x1000);
        let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!([byte(0x2fff), byte(0x3000), byte(0x8000), byte(0x8fff), byte(0x9000)], [1, 0, 0, 0, 1]);
        assert_eq!(give_back(&memory, u64::MAX - 0x1000, 0x1000).unwrap(), 0);
        assert_eq!(give_back(&memory, 0, u64::MAX).unwrap(), 0x8000);
    }
}
