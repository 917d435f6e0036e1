//! Writes archives of files, for others to read.

use std::io::{self, Read, Write};

use super::header::BLOCK;

/// Writes an archive (ustar) to a stream.
pub struct TarWriter<W> {
    stream: W,
}

impl<W: Write> TarWriter<W> {
    /// An empty archive.
    pub fn new(stream: W) -> Self {
        Self { stream }
    }

    /// Adds a file of `size` bytes, which `contents` must have.
    pub fn file(&mut self, name: &str, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.stream.write_all(&header(name, size)?)?;
        let copied = io::copy(contents, &mut self.stream)?;
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).map_err(io::Error::other)?;
        self.stream.write_all(&[0; BLOCK][..padding])
    }

    /// Ends the archive; gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.stream.write_all(&[0; 2 * BLOCK])?;
        Ok(self.stream)
    }
}

fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    if name.len() > 100 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // What eleven octal digits cannot say, GNU's tar says in binary.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tar::{EntryKind, TarReader};

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = TarWriter::new(Vec::new());
        writer.file("a/b", 600, &mut &[7; 600][..]).expect("memory can be written");
        writer.file("c", 0, &mut io::empty()).expect("memory can be written");
        let archive = writer.finish().expect("memory can be written");
        let mut reader = TarReader::new(&archive[..]);
        for (name, size) in [(&b"a/b"[..], 600), (b"c", 0)] {
            let entry = reader.next_entry().expect("an archive").expect("an entry");
            assert_eq!((&entry.name[..], entry.kind), (name, EntryKind::File { size }));
        }
        assert!(reader.next_entry().expect("an archive").is_none());
    }

    #[test]
    fn a_size_above_8_gib_can_be_read() {
        let size = 9 << 30;
        let header = header("large", size).expect("a header");
        let mut reader = TarReader::new(&header[..]);
        let entry = reader.next_entry().expect("an archive").expect("an entry");
        assert_eq!(entry.kind, EntryKind::File { size });
    }
}
