//! The header of an entry: a block of 512 bytes (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic
//! Tar Format").

use super::TarError;

/// Bytes in a block of an archive.
pub const BLOCK: usize = 512;

/// A header whose checksum is right.
pub struct Header(Box<[u8; BLOCK]>);

/// What the header of a sparse file says in GNU's old format.
pub struct GnuSparse {
    /// The pieces that are there: offset and length.
    pub pieces: Vec<(i64, i64)>,
    /// Whether more of them follow in a block of their own.
    pub more: bool,
    /// The file's size with its holes.
    pub size: i64,
}

impl Header {
    /// Takes a block for a header; none if it is the block of zeros that ends an archive.
    pub fn parse(block: [u8; BLOCK]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Self(Box::new(block));
        let told = header.number(148..156)?;
        // The sum is made with spaces in its own place. Old programs summed up signed bytes.
        let blanked = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let bytes = || header.0.iter().enumerate().map(|(at, byte)| blanked(at, *byte));
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if told != unsigned && told != signed {
            return Err(TarError::Header("its checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// The entry's name.
    pub fn name(&self) -> Vec<u8> {
        let name = text(self.bytes(0..100));
        let prefix = if self.is_ustar() { text(self.bytes(345..500)) } else { &[] };
        match prefix.is_empty() {
            true => name.to_vec(),
            false => [prefix, b"/", name].concat(),
        }
    }

    /// What a link leads to.
    pub fn link(&self) -> Vec<u8> {
        text(self.bytes(157..257)).to_vec()
    }

    /// The entry's type, a letter.
    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Permissions.
    pub fn mode(&self) -> Result<i64, TarError> {
        self.number(100..108)
    }

    /// Owner.
    pub fn uid(&self) -> Result<i64, TarError> {
        self.number(108..116)
    }

    /// Group.
    pub fn gid(&self) -> Result<i64, TarError> {
        self.number(116..124)
    }

    /// Bytes that follow.
    pub fn size(&self) -> Result<i64, TarError> {
        self.number(124..136)
    }

    /// Seconds since 1970.
    pub fn mtime(&self) -> Result<i64, TarError> {
        self.number(136..148)
    }

    /// A device's major number.
    pub fn major(&self) -> Result<i64, TarError> {
        self.number(329..337)
    }

    /// A device's minor number.
    pub fn minor(&self) -> Result<i64, TarError> {
        self.number(337..345)
    }

    /// GNU's map of a sparse file.
    pub fn sparse(&self) -> Result<GnuSparse, TarError> {
        let pieces = sparse_map(self.bytes(386..482))?;
        Ok(GnuSparse { pieces, more: self.0[482] != 0, size: self.number(483..495)? })
    }

    fn is_ustar(&self) -> bool {
        self.bytes(257..263) == b"ustar\0"
    }

    fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        // Ranges are this file's own, all below 512.
        &self.0[range]
    }

    fn number(&self, range: std::ops::Range<usize>) -> Result<i64, TarError> {
        number(self.bytes(range))
    }
}

/// Pieces of a sparse file: 24 bytes each, the first that is empty ends them.
pub fn sparse_map(bytes: &[u8]) -> Result<Vec<(i64, i64)>, TarError> {
    let pieces = bytes.chunks_exact(24).take_while(|piece| piece[0] != 0);
    pieces.map(|piece| Ok((number(&piece[..12])?, number(&piece[12..])?))).collect()
}

/// A text that ends at a NUL or with its field.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits, or (GNU) big-endian bytes after a first one of 0x80 or 0xff.
fn number(field: &[u8]) -> Result<i64, TarError> {
    let error = TarError::Header("a number in it is none");
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // The rest of the first byte is the number's top, with its sign in bit 6.
            let top = i64::from((first << 1).cast_signed() >> 1);
            let add = |sum: i64, byte: &u8| Some(sum.checked_mul(256)? + i64::from(*byte));
            rest.iter().try_fold(top, add).ok_or(error)
        }
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
            let add = |sum: i64, digit: &u8| match digit {
                b'0'..=b'7' => Some(sum.checked_mul(8)? + i64::from(digit - b'0')),
                _ => None,
            };
            digits.iter().take(end).try_fold(0, add).ok_or(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let negative = [&[0xff; 11][..], &[0xfe]].concat();
        let binary = [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1];
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b" 644 \0\0\0", 0o644),
            (b"", 0),
            (b"\0\0\0\0", 0),
            (&binary, 0x2_0000_0001),
            (&negative, -2),
        ] {
            assert_eq!(number(field).ok(), Some(value), "{field:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for field in [&b"8"[..], b"-1", b"0x1", &[0x80 | 0x3f; 12], b"7777777777777777777777777"] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
