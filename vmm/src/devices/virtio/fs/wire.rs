//! FUSE messages as bytes (Linux: include/uapi/linux/fuse.h, protocol 7.41): numbers, fields out, fields in.
//!
//! ```text
//!  request  | len u32 | opcode u32 | unique u64 | node u64 | uid u32 | gid u32 | pid u32 | ext u32 | arguments ... |
//!  reply    | len u32 | error i32 | unique u64 | answer ... |
//! ```
//!
//! What the operations mean is in the modules that carry them out. Everything is little-endian, as guest and host
//! are.

use std::ffi::CStr;

use nix::errno::Errno;

/// Major version of the protocol.
pub const MAJOR: u32 = 7;
/// Minor version that is spoken here.
pub const MINOR: u32 = 41;
/// The minor version of the first Linux with virtio-fs (5.4): older ones have shorter messages.
pub const OLDEST_MINOR: u32 = 31;

/// The node of the shared directory itself.
pub const ROOT: u64 = 1;
/// Bytes of a request before its arguments.
pub const REQUEST_HEADER: usize = 40;
/// Bytes of a reply before its answer.
pub const REPLY_HEADER: u32 = 16;
/// Bytes of the arguments of a WRITE, before its data.
pub const WRITE_ARGUMENTS: usize = 40;
/// Most pages of data of one request: what Linux takes at most.
pub const MAX_PAGES: u16 = 256;
/// Most bytes of one READ or WRITE.
pub const MAX_TRANSFER: u32 = (MAX_PAGES as u32) << 12;
/// Longest name in a directory, in bytes (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// Operations by their number (`enum fuse_opcode`).
#[allow(missing_docs, reason = "the names are the protocol's; the functions that carry them out say more")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
}

/// What every request starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole request.
    pub length: u32,
    /// What is asked for.
    pub opcode: u32,
    /// The driver's number of the request, given back in the reply.
    pub unique: u64,
    /// What it is about.
    pub node: u64,
    /// Who asks.
    pub caller: Caller,
}

/// The process of the guest that asks, as its file system user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Header {
    /// The header in `bytes`.
    pub fn parse(bytes: &[u8; REQUEST_HEADER]) -> Result<Self, Errno> {
        let mut fields = Fields::new(bytes);
        Ok(Self {
            length: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            caller: Caller { uid: fields.u32()?, gid: fields.u32()? },
        })
    }
}

/// The arguments of a request, taken one after the other. One that is not there is EINVAL.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    /// Leaves out `bytes` that mean nothing here.
    pub fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.bytes(bytes).map(drop)
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next text, which ends with a zero.
    pub fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.rest).map_err(|_| Errno::EINVAL)?;
        self.skip(text.count_bytes().saturating_add(1))?;
        Ok(text)
    }

    /// The next text, which must be the name of an entry: nothing that leads anywhere but into the directory it
    /// is looked for in.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            long if long.len() > LONGEST_NAME => Err(Errno::ENAMETOOLONG),
            path if path.contains(&b'/') => Err(Errno::EINVAL),
            _ => Ok(name),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// The answer to a request, put together field by field. Kept from one request to the next for its memory.
#[derive(Debug, Default)]
pub struct Reply {
    bytes: Vec<u8>,
    /// Bytes that are in guest memory already, behind the header: the data of a READ. Then there are no others.
    pub moved: u32,
    /// Bytes of data that a WRITE took.
    pub taken: u32,
}

impl Reply {
    /// Forgets what was answered before.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.moved, self.taken) = (0, 0);
    }

    /// What was put into the answer so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much that is.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back all but the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// Adds two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Adds four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Adds eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Adds `count` zeroes.
    pub fn zeroes(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().saturating_add(count), 0);
        self
    }

    /// Adds bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}

/// The header of a reply whose answer has `answer` bytes, or of one that is an error.
pub fn reply_header(unique: u64, result: Result<u32, Errno>) -> [u8; REPLY_HEADER as usize] {
    let (answer, error) = match result {
        Ok(answer) => (answer, 0_i32),
        Err(errno) => (0, (errno as i32).saturating_neg()),
    };
    let length = answer.saturating_add(REPLY_HEADER);
    let mut header = [0; REPLY_HEADER as usize];
    let fields = length.to_le_bytes().into_iter().chain(error.to_le_bytes()).chain(unique.to_le_bytes());
    for (to, from) in header.iter_mut().zip(fields) {
        *to = from;
    }
    header
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_their_order_and_no_further_than_there_are() {
        let mut fields = Fields::new(b"\x01\0\0\0\x02\0\0\0\0\0\0\0text\0rest");
        assert_eq!((fields.u32(), fields.u64()), (Ok(1), Ok(2)));
        assert_eq!(fields.text(), Ok(c"text"));
        assert_eq!(fields.text(), Err(Errno::EINVAL), "a text without its end");
        assert_eq!(fields.u64(), Err(Errno::EINVAL));
        assert_eq!(fields.bytes(5), Err(Errno::EINVAL));
        assert_eq!(fields.bytes(4), Ok(b"rest".as_slice()));
        assert_eq!(fields.bytes(0), Ok(b"".as_slice()));
        assert_eq!(fields.text(), Err(Errno::EINVAL));
    }

    #[test]
    fn a_name_leads_nowhere_but_into_its_directory() {
        let name = |text: &str| Fields::new(format!("{text}\0").as_bytes()).name().map(CStr::to_owned);
        for good in ["a", "...", "..a", " ", "\u{ff}\n", &"n".repeat(255)] {
            assert_eq!(name(good).unwrap().to_bytes(), good.as_bytes());
        }
        for bad in ["", ".", "..", "/", "/etc", "a/b", "../a", "a/"] {
            assert_eq!(name(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(name(&"n".repeat(256)), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn a_reply_tells_its_length_or_its_error() {
        let answered = reply_header(0x0102, Ok(8));
        assert_eq!(answered, [24, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let failed = reply_header(1, Err(Errno::ENOENT));
        assert_eq!(failed, [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
