//! Extended attributes, as they stand behind an inode.
//!
//! A header of 12 bytes, then entries: the length of the name, the number of its namespace, the length of the value;
//! name and value; each entry on a multiple of 4. A set that is put together twice has the same bytes.

use std::collections::BTreeMap;

use super::format::Bytes;

const HEADER: usize = 12;
/// Namespaces and their numbers; what is in none of them an erofs image cannot carry. The two ACLs have numbers of
/// their own and no rest of a name.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The extended attributes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<Vec<u8>, Vec<u8>>);

/// Why an attribute cannot be kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum XattrsError {
    /// Longer than Linux allows.
    #[error(
        "the name of an extended attribute has {0} bytes and its value {1}: Linux has at most 255 and 65536"
    )]
    Long(usize, usize),
    /// More than an inode can have.
    #[error("its extended attributes are more than the 262,144 bytes that a file can have")]
    Many,
}

impl Xattrs {
    /// Adds or replaces one. One in a namespace that Linux does not keep on files (as those of other systems) is
    /// left out, as every unpacker has to.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), XattrsError> {
        if namespace(name).is_none() {
            return Ok(());
        }
        if name.len() > 255 || value.len() > usize::from(u16::MAX) {
            return Err(XattrsError::Long(name.len(), value.len()));
        }
        self.0.insert(name.to_vec(), value.to_vec());
        // The count is of 16 bits.
        if self.size() > HEADER + 4 * usize::from(u16::MAX - 1) { Err(XattrsError::Many) } else { Ok(()) }
    }

    /// Takes one over from `other`, if it is there.
    pub fn keep(&mut self, name: &[u8], other: &Self) {
        if let Some(value) = other.0.get(name) {
            self.0.insert(name.to_vec(), value.clone());
        }
    }

    /// Bytes that they take behind an inode.
    pub fn size(&self) -> usize {
        let entry = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            let rest = namespace(name).map_or(0, |(_, rest)| rest.len());
            (4 + rest + value.len()).next_multiple_of(4)
        };
        match self.0.is_empty() {
            true => 0,
            false => HEADER + self.0.iter().map(entry).sum::<usize>(),
        }
    }

    /// Their length as an inode says it: the header counts as one, the rest in units of 4.
    pub fn count(&self) -> u16 {
        match self.size() {
            0 => 0,
            size => u16::try_from((size - HEADER) / 4 + 1).expect("`set` keeps the size below this"),
        }
    }

    /// Appends them.
    pub fn write(&self, bytes: &mut Bytes) {
        if self.0.is_empty() {
            return;
        }
        bytes.zeros(HEADER);
        for (name, value) in &self.0 {
            let Some((number, rest)) = namespace(name) else { continue };
            bytes.u8(u8::try_from(rest.len()).expect("`set` takes names of up to 255 bytes"));
            bytes.u8(number);
            bytes.u16(u16::try_from(value.len()).expect("`set` takes values of up to 65,535 bytes"));
            bytes.slice(rest);
            bytes.slice(value);
            bytes.align(4);
        }
    }
}

/// The number of a name's namespace, and the name without it.
fn namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(*prefix)?;
        // An ACL's name is a whole one, the others need a rest.
        (rest.is_empty() != prefix.ends_with(b".")).then_some((*number, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_aligned_and_counted() {
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.a", b"xy").expect("it is kept");
        let mut bytes = Bytes::default();
        xattrs.write(&mut bytes);
        let bytes = bytes.into_vec();
        assert_eq!(bytes[HEADER..], [1, 1, 2, 0, b'a', b'x', b'y', 0]);
        assert_eq!((xattrs.size(), xattrs.count()), (20, 3));
    }

    #[test]
    fn namespaces_that_files_do_not_have_are_left_out() {
        let mut xattrs = Xattrs::default();
        for name in [&b"com.apple.quarantine"[..], b"user.", b"system.posix_acl_accessory", b""] {
            assert_eq!(xattrs.set(name, b"1"), Ok(()));
        }
        assert_eq!(xattrs, Xattrs::default());
    }

    #[test]
    fn too_much_is_refused() {
        let mut xattrs = Xattrs::default();
        let long = [b"user.".to_vec(), vec![b'a'; 251]].concat();
        assert_eq!(xattrs.set(&long, b""), Err(XattrsError::Long(256, 0)));
        assert_eq!(xattrs.set(b"user.a", &[0; 65536]), Err(XattrsError::Long(6, 65536)));
        let all: Result<(), _> =
            (b'a'..=b'e').try_for_each(|letter| xattrs.set(&[b"user.", &[letter][..]].concat(), &[0; 65535]));
        assert_eq!(all, Err(XattrsError::Many));
    }
}
