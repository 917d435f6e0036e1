//! Names in an archive: cleaned, bounded, and told apart from whiteouts.

use crate::images::erofs::NAME_MAX;

/// Longest path, in bytes (PATH_MAX of Linux).
const PATH_MAX: usize = 4096;
/// In front of the name of a file that a layer removes.
const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs for its own use; but for one, they mean nothing.
const OWN: &[u8] = b".wh..wh.";
/// In a directory: nothing of the layers below is in it.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last name of a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Last<'a> {
    /// The path has none: it is the root directory.
    Root,
    /// A file.
    Name(&'a [u8]),
    /// That a file of this name in the layers below be gone.
    Whiteout(&'a [u8]),
    /// That what the layers below have in the directory be gone.
    Opaque,
    /// Nothing.
    Nothing,
}

/// The names of a path, without `.`, `..` and empty ones. An absolute path starts at the root of the layer, as does
/// any other. None if it leads out, or has what no path can have.
pub fn clean(path: &[u8]) -> Option<Vec<&[u8]>> {
    if path.len() > PATH_MAX || path.contains(&0) {
        return None;
    }
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop()?;
            }
            name if name.len() > NAME_MAX => return None,
            name => names.push(name),
        }
    }
    Some(names)
}

/// Splits a cleaned path into its directory and what is asked for there. None for a whiteout of no file.
pub fn split<'a, 'b>(names: &'b [&'a [u8]]) -> Option<(&'b [&'a [u8]], Last<'a>)> {
    let Some((last, directory)) = names.split_last() else { return Some((&[], Last::Root)) };
    let last = match last.strip_prefix(WHITEOUT) {
        _ if directory.iter().any(|name| name.starts_with(OWN)) => Last::Nothing,
        _ if *last == OPAQUE => Last::Opaque,
        _ if last.starts_with(OWN) => Last::Nothing,
        Some(b"" | b"." | b"..") => return None,
        Some(removed) => Last::Whiteout(removed),
        None => Last::Name(last),
    };
    Some((directory, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let long = [b'a'; 256];
        for (path, names) in [
            (&b"./a//b/./c/"[..], Some(vec![&b"a"[..], b"b", b"c"])),
            (b"/etc/passwd", Some(vec![b"etc", b"passwd"])),
            (b"a/../b", Some(vec![b"b"])),
            (b"./", Some(vec![])),
            (b"..", None),
            (b"/../a", None),
            (b"a/../../b", None),
            (b"a\0b", None),
            (&long, None),
            (&b"a/".repeat(2049), None),
        ] {
            assert_eq!(clean(path), names, "{:?}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        for (last, meaning) in [
            (&b"file"[..], Some(Last::Name(&b"file"[..]))),
            (b".wh.file", Some(Last::Whiteout(b"file"))),
            (b".wh..hidden", Some(Last::Whiteout(b".hidden"))),
            (b".wh..wh..opq", Some(Last::Opaque)),
            (b".wh..wh.plnk", Some(Last::Nothing)),
            (b".wh", Some(Last::Name(b".wh"))),
            (b".wh.", None),
            (b".wh..", None),
            (b".wh...", None),
        ] {
            let names = [&b"dir"[..], last];
            let found = split(&names).map(|(_, last)| last);
            assert_eq!(found, meaning, "{:?}", String::from_utf8_lossy(last));
        }
    }
}
