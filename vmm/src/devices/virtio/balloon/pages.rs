//! Page numbers as the inflate queue carries them, and the ranges that they make up.
//!
//! Linux takes pages one by one and mostly in descending order. Sorted, those that are neighbours become one
//! range: one system call instead of one for each.

use std::io::Read;

/// Page numbers count pages of 4 KiB on every machine (virtio 1.2, section 5.5.6).
pub const PAGE_SHIFT: u32 = 12;

/// Most numbers taken from one chain. Linux puts 256 into one.
const MOST_NUMBERS: usize = 4096;

/// The page numbers of one chain.
pub struct PageNumbers {
    /// Sorted, each one once. Never longer than [`MOST_NUMBERS`].
    numbers: Vec<u32>,
    /// Whether these are all: not too many, and no half a number at the end.
    pub complete: bool,
}

impl PageNumbers {
    /// Reads the little-endian numbers that `chain` is made of.
    pub fn read(chain: &mut impl Read) -> Self {
        let most = MOST_NUMBERS * size_of::<u32>();
        let mut bytes = Vec::new();
        let read = chain.take(most as u64 + 1).read_to_end(&mut bytes);
        bytes.truncate(most);
        let (numbers, half) = bytes.as_chunks();
        let mut numbers: Vec<_> = numbers.iter().copied().map(u32::from_le_bytes).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self { numbers, complete: half.is_empty() && read.is_ok_and(|length| length <= most) }
    }

    /// The ranges of neighbours, each as address and length in bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let neighbours = self.numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        neighbours.filter_map(|run| {
            let start = u64::from(*run.first()?) << PAGE_SHIFT;
            Some((start, (run.len() as u64) << PAGE_SHIFT))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(numbers: &[u32]) -> Vec<(u64, u64)> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let pages = PageNumbers::read(&mut &bytes[..]);
        assert!(pages.complete);
        pages.ranges().collect()
    }

    #[test]
    fn neighbours_in_any_order_are_one_range() {
        assert_eq!(ranges(&[5, 4, 3]), [(0x3000, 0x3000)]);
        assert_eq!(ranges(&[7, 1, 2, 9, 8]), [(0x1000, 0x2000), (0x7000, 0x3000)]);
        assert_eq!(ranges(&[]), []);
    }

    #[test]
    fn a_number_counts_once() {
        assert_eq!(ranges(&[1, 1, 2, 1, 2]), [(0x1000, 0x2000)]);
    }

    #[test]
    fn the_greatest_number_does_not_wrap() {
        assert_eq!(ranges(&[u32::MAX, 0, u32::MAX - 1]), [(0, 0x1000), (0xfff_ffff_e000, 0x2000)]);
    }

    #[test]
    fn too_many_numbers_and_half_a_number_are_told() {
        let half = PageNumbers::read(&mut &[1, 0, 0, 0, 7][..]);
        assert_eq!((half.complete, half.numbers), (false, vec![1]));
        assert!(PageNumbers::read(&mut &vec![0; MOST_NUMBERS * 4][..]).complete);
        assert!(!PageNumbers::read(&mut &vec![0; MOST_NUMBERS * 4 + 1][..]).complete);
        let endless = PageNumbers::read(&mut std::io::repeat(1));
        assert_eq!((endless.complete, endless.ranges().count()), (false, 1));
    }
}
