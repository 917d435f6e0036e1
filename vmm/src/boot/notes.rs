//! The notes of an ELF kernel (System V ABI, chapter 5, "Note Section"): whether it is Linux.
//!
//! ```text
//!  note:  length of name (4)  length of description (4)  type (4)  name  description     each padded to 4 bytes
//! ```

/// The owner of the notes that Linux has of itself, closing zero included.
const OWNER: &[u8] = b"Linux\0";
/// LINUX_ELFNOTE_BUILD_SALT (include/linux/build-salt.h): in every Linux since 4.19.
const BUILD_SALT: u32 = 0x100;

/// Whether one of `notes` is there that every Linux has and no other kernel.
///
/// Notes that are cut short, or whose lengths are none, end the search.
pub fn are_of_linux(mut notes: &[u8]) -> bool {
    while let Some((owner, kind, rest)) = split_first(notes) {
        if owner == OWNER && kind == BUILD_SALT {
            return true;
        }
        notes = rest;
    }
    false
}

/// Owner and type of the first note, and the notes that follow.
fn split_first(notes: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let ([name, description, kind], rest) = numbers(notes)?;
    let owner = rest.get(..name)?;
    let rest = rest.get(padded(name)?..)?;
    // The last description may end with the file's notes, without its padding.
    let following = rest.get(padded(description)?..).unwrap_or_default();
    Some((owner, u32::try_from(kind).ok()?, following))
}

fn padded(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(4)
}

fn numbers(notes: &[u8]) -> Option<([usize; 3], &[u8])> {
    let (header, rest) = notes.split_first_chunk::<12>()?;
    let (words, _) = header.as_chunks::<4>();
    let mut numbers = [0; 3];
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = usize::try_from(u32::from_le_bytes(*word)).ok()?;
    }
    Some((numbers, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a test's note is short").to_le_bytes();
        let mut note = [length(owner), length(description), kind.to_le_bytes()].concat();
        for part in [owner, description] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn linux_is_known_by_its_note_among_others() {
        let linux = note(OWNER, BUILD_SALT, &[0]);
        let xen = note(b"Xen\0", 0x12, &[0; 8]);
        let gnu = note(b"GNU\0", 3, &[7; 5]);
        assert!(are_of_linux(&[&gnu[..], &linux, &xen].concat()));
        assert!(are_of_linux(&linux[..linux.len() - 3]));
        assert!(!are_of_linux(&[gnu, xen].concat()));
        assert!(!are_of_linux(&note(OWNER, BUILD_SALT + 1, &[0; 4])));
        assert!(!are_of_linux(&note(b"Linux", BUILD_SALT, &[0; 4])));
    }

    #[test]
    fn notes_with_lengths_that_are_none_end_the_search() {
        let linux = note(OWNER, BUILD_SALT, &[0]);
        for lengths in [[u32::MAX, 0], [0, u32::MAX], [u32::MAX, u32::MAX], [1 << 31, 1 << 31]] {
            let hostile =
                [&lengths[0].to_le_bytes()[..], &lengths[1].to_le_bytes(), &[0; 4], &linux].concat();
            assert!(!are_of_linux(&hostile), "{lengths:?}");
        }
        for length in 0..linux.len() - 4 {
            assert!(!are_of_linux(&linux[..length]), "{length}");
        }
    }
}
