//! Extended headers: records `LENGTH KEY=VALUE\n` before an entry (POSIX.1-2017, pax, "pax Extended Header").

use super::TarError;

/// Longest extended header that is read. Attributes are most of it: Linux has 64 KiB in each, in an entry few.
pub const MAX: u64 = 1 << 20;

/// What extended headers said of the next entry. A later record of the same key wins.
#[derive(Default)]
pub struct Pax {
    /// Its name.
    pub path: Option<Vec<u8>>,
    /// What it links to.
    pub link: Option<Vec<u8>>,
    /// Bytes that follow.
    pub size: Option<i64>,
    /// Owner.
    pub uid: Option<i64>,
    /// Group.
    pub gid: Option<i64>,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file.
    pub sparse: Sparse,
}

/// Records of GNU tar about a sparse file (GNU tar manual, "Storing Sparse Files").
#[derive(Default)]
pub struct Sparse {
    /// The format's version.
    pub major: Option<i64>,
    /// The file's name, where the entry's is made up.
    pub name: Option<Vec<u8>>,
    /// The file's size with its holes.
    pub real_size: Option<i64>,
    /// The pieces that are there, where the header has them (version 0.1).
    pub map: Option<Vec<(i64, i64)>>,
}

impl Pax {
    /// Takes the records of one header.
    pub fn read(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or(TarError::Pax("a record's length is wrong"))?;
            self.take(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(map(value)?),
            b"GNU.sparse.offset" => {
                return Err(TarError::Pax("sparse files of version 0.0 are not supported"));
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Splits the first record off: key, value, and what follows.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, rest))
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    match value.contains(&0) {
        true => Err(TarError::Pax("a name has a NUL in it")),
        false => Ok(value.to_vec()),
    }
}

fn number(value: &[u8]) -> Result<i64, TarError> {
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    parsed.ok_or(TarError::Pax("a number in it is none"))
}

/// `SECONDS[.FRACTION]`, with a sign.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (value.get(..dot).unwrap_or_default(), value.get(dot + 1..).unwrap_or_default()),
        None => (value, &[][..]),
    };
    let seconds = number(whole)?;
    // Nine digits, and what is finer is cut off.
    let digits: Vec<u8> = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
    let nanoseconds = u32::try_from(number(&digits)?).map_err(|_| TarError::Pax("a time in it is none"))?;
    // -1.25 is 0.75 s after -2.
    match whole.starts_with(b"-") && nanoseconds > 0 {
        true => Ok((seconds.saturating_sub(1), 1_000_000_000 - nanoseconds)),
        false => Ok((seconds, nanoseconds)),
    }
}

/// `OFFSET,LENGTH,OFFSET,LENGTH`
fn map(value: &[u8]) -> Result<Vec<(i64, i64)>, TarError> {
    let numbers: Vec<i64> = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect()),
        _ => Err(TarError::Pax("the map of a sparse file has an odd number in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let mut pax = Pax::default();
        pax.read(b"12 path=a\nb\n27 SCHILY.xattr.user.x=1=\n\n").expect("they are records");
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"1=\n".to_vec())]);
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, time_read) in [
            ("1.5", (1, 500_000_000)),
            ("7", (7, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("1.0123456789", (1, 12_345_678)),
        ] {
            assert_eq!(time(text.as_bytes()).ok(), Some(time_read), "{text}");
        }
    }

    #[test]
    fn bad_records_are_refused() {
        for records in [
            &b"9999 path=a\n"[..],
            b"0 path=a\n",
            b"path=a\n",
            b"10 path=a ",
            b"10 path=\0\n",
            b"9 size=x\n",
            b"13 mtime=1.x\n",
        ] {
            let read = Pax::default().read(records);
            assert!(read.is_err(), "{:?}", String::from_utf8_lossy(records));
        }
    }
}
