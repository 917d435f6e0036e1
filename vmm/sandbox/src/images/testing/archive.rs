//! Makes tar archives, honest ones and others.

/// An archive that grows.
#[derive(Default)]
pub struct Archive(Vec<u8>);

/// An entry's header, with what honest ones have where nothing else is set.
pub struct Header([u8; 512]);

impl Header {
    /// Of an entry of a type (a letter), with a name of at most 100 bytes: what is longer is cut off.
    pub fn new(kind: u8, name: &[u8]) -> Self {
        let mut header = Self([0; 512]);
        header.put(0, name.get(..name.len().min(100)).unwrap_or_default());
        header.put(100, b"0000755\0");
        header.put(108, b"0000000\0");
        header.put(116, b"0000000\0");
        header.put(124, b"00000000000\0");
        header.put(136, b"00000000000\0");
        header.put(156, &[kind]);
        header.put(257, b"ustar\x0000");
        header
    }

    /// Writes over a part of it.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Sets the size of the contents.
    pub fn size(&mut self, size: usize) -> &mut Self {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    /// The block, with its checksum.
    pub fn bytes(&self) -> [u8; 512] {
        let mut block = self.0;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Archive {
    /// Adds a file.
    pub fn file(self, name: &str, contents: &[u8]) -> Self {
        let mut header = Header::new(b'0', name.as_bytes());
        header.size(contents.len());
        self.entry(&header, contents)
    }

    /// Adds a directory.
    pub fn directory(self, name: &str) -> Self {
        self.entry(&Header::new(b'5', name.as_bytes()), b"")
    }

    /// Adds a symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Header::new(b'2', name.as_bytes()).put(157, target.as_bytes()), b"")
    }

    /// Adds a hard link.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(Header::new(b'1', name.as_bytes()).put(157, target.as_bytes()), b"")
    }

    /// Adds a device or a pipe, by the letter of its type.
    pub fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        let mut header = Header::new(kind, name.as_bytes());
        header.put(329, format!("{major:07o}\0").as_bytes()).put(337, format!("{minor:07o}\0").as_bytes());
        self.entry(&header, b"")
    }

    /// Extended headers for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut contents = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length += 1;
            }
            contents.extend(format!("{length} {key}=").bytes());
            contents.extend(*value);
            contents.push(b'\n');
        }
        let mut header = Header::new(b'x', b"pax");
        header.size(contents.len());
        self.entry(&header, &contents)
    }

    /// Anything.
    pub fn entry(mut self, header: &Header, contents: &[u8]) -> Self {
        self.0.extend(header.bytes());
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.0[..], &[0; 1024]].concat()
    }

    /// As it is so far.
    pub fn unfinished(&self) -> &[u8] {
        &self.0
    }
}
