//! Sparse files: the pieces that are in the archive, with zeros between them.

use std::io::{self, Read};

use super::TarError;

/// Most pieces of one file.
const PIECES_MAX: usize = 1 << 16;

/// Where a file's bytes are: pieces of it in ascending order, stored one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Map {
    pieces: Vec<(u64, u64)>,
    /// The file's size with its holes.
    pub size: u64,
}

impl Map {
    /// A map from what a header says; `stored` is how many bytes the archive has. None if it contradicts itself.
    pub fn new(told: &[(i64, i64)], size: i64, stored: u64) -> Option<Self> {
        let size = u64::try_from(size).ok()?;
        let mut end = 0;
        let mut sum = 0_u64;
        let mut pieces = Vec::with_capacity(told.len());
        for &(offset, length) in told {
            let (offset, length) = (u64::try_from(offset).ok()?, u64::try_from(length).ok()?);
            if offset < end {
                return None;
            }
            end = offset.checked_add(length)?;
            sum = sum.checked_add(length)?;
            pieces.push((offset, length));
        }
        (end <= size && sum == stored && pieces.len() <= PIECES_MAX).then_some(Self { pieces, size })
    }
}

/// The map in front of a file's data (version 1.0): decimal numbers, each on a line: how many pieces; then offset and
/// length of each; filled up to a block. Gives the pieces and the bytes read.
pub fn read_map(data: &mut impl Read, name: &str) -> Result<(Vec<(i64, i64)>, u64), TarError> {
    let mut lines = Lines { data, block: [0; super::header::BLOCK], at: super::header::BLOCK, read: 0 };
    let bad = || TarError::Sparse(name.to_owned());
    let count = lines.number()?.ok_or_else(bad)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= PIECES_MAX).ok_or_else(bad)?;
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push((lines.number()?.ok_or_else(bad)?, lines.number()?.ok_or_else(bad)?));
    }
    Ok((pieces, lines.read))
}

struct Lines<'a, R> {
    data: &'a mut R,
    block: [u8; super::header::BLOCK],
    at: usize,
    read: u64,
}

impl<R: Read> Lines<'_, R> {
    /// The next number; none where something else is.
    fn number(&mut self) -> io::Result<Option<i64>> {
        let mut sum = 0_i64;
        loop {
            if self.at == self.block.len() {
                self.data.read_exact(&mut self.block)?;
                self.read += self.block.len() as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let next = match byte {
                b'\n' => return Ok(Some(sum)),
                b'0'..=b'9' => sum.checked_mul(10).and_then(|sum| sum.checked_add(i64::from(byte - b'0'))),
                _ => None,
            };
            let Some(next) = next else { return Ok(None) };
            sum = next;
        }
    }
}

/// Reads a sparse file with its holes: `data` has the pieces.
pub struct Expanded<'a, R> {
    data: R,
    map: &'a Map,
    piece: usize,
    at: u64,
}

impl<'a, R: Read> Expanded<'a, R> {
    /// From the start of the file.
    pub fn new(data: R, map: &'a Map) -> Self {
        Self { data, map, piece: 0, at: 0 }
    }
}

impl<R: Read> Read for Expanded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.map.pieces.get(self.piece).is_some_and(|(offset, length)| self.at >= offset + length) {
            self.piece += 1;
        }
        let (start, end) = match self.map.pieces.get(self.piece) {
            Some((offset, length)) => (*offset, offset + length),
            None => (self.map.size, self.map.size),
        };
        let hole = self.at < start;
        let room = if hole { start - self.at } else { end - self.at };
        let length = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let read = if hole {
            buffer.fill(0);
            length
        } else {
            self.data.read(buffer)?
        };
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_read_as_zeros() {
        let map = Map::new(&[(2, 3), (6, 1), (9, 0)], 9, 4).expect("it is a map");
        let mut file = Vec::new();
        Expanded::new(&b"abcd"[..], &map).read_to_end(&mut file).expect("memory can be read");
        assert_eq!(file, b"\0\0abc\0d\0\0");
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        for (told, size, stored) in [
            (&[(0, 2), (1, 2)][..], 9, 4),
            (&[(0, 10)], 9, 10),
            (&[(0, 2)], 9, 3),
            (&[(-1, 2)], 9, 2),
            (&[(i64::MAX, i64::MAX)], i64::MAX, u64::MAX >> 1),
            (&[], -1, 0),
        ] {
            assert_eq!(Map::new(told, size, stored), None, "{told:?}");
        }
    }

    #[test]
    fn a_map_in_front_of_the_data_is_read_to_its_block_end() {
        let mut block = b"2\n0\n5\n1000\n7\n".to_vec();
        block.resize(512, 0);
        block.extend(b"data");
        let mut data = &block[..];
        let (pieces, read) = read_map(&mut data, "file").expect("it is a map");
        assert_eq!((pieces, read, data), (vec![(0, 5), (1000, 7)], 512, &b"data"[..]));
    }
}
