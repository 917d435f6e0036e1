//! The shared directory as its driver sees it: FUSE requests in, replies out, through rings and under the thread's
//! seccomp filter, against a directory of the host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use rvm_config::{CachePolicy, Share};
use tempfile::TempDir;
use vm_memory::GuestAddress;

use super::wire::{Caller, Fields, REPLY_HEADER, REQUEST_HEADER, ROOT, Reply, opcode};
use super::{Fs, FsError};
use crate::devices::virtio::testing::{Driver, MEMORY_SIZE, Part};
use crate::devices::virtio::{DeviceStats, VirtioDevice};
use crate::seccomp::{Filters, ThreadKind};

mod attributes;
mod directories;
mod files;
mod hostile;
mod lone_file;
mod names;
mod negotiation;

const HIGH_PRIORITY: usize = 0;
const REQUESTS: usize = 1;
/// What Linux 6.12 offers at INIT, but for what only its own file systems have.
const OFFERED: u64 = 0x73_fffc_fffb & !(1 << 26);
const RDWR: u32 = libc::O_RDWR as u32;
const RDONLY: u32 = libc::O_RDONLY as u32;

/// A directory of the host and the guest that it is shared with.
struct Guest {
    driver: Driver,
    stats: Arc<DeviceStats>,
    directory: TempDir,
    caller: Caller,
    unique: u64,
}

/// What the guest is told of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    node: u64,
    inode: u64,
    size: u64,
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
}

impl Guest {
    /// A guest that has mounted a directory, empty yet.
    fn new() -> Self {
        Self::with(|_| (), 1 << 12)
    }

    /// The same, with `change` made to how it is shared, and `descriptors` for it.
    fn with(change: impl FnOnce(&mut Share), descriptors: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let mut share = Share {
            path: directory.path().to_owned(),
            file: false,
            tag: "data".into(),
            read_only: false,
            cache: CachePolicy::Auto,
        };
        change(&mut share);
        let mut guest = Self::unmounted(directory, Fs::open(&share, descriptors).unwrap());
        guest.init(7, 41, OFFERED).unwrap();
        guest
    }

    /// A guest whose driver runs, and has not said yet what it can do.
    fn unmounted(directory: TempDir, device: Fs) -> Self {
        let stats = device.stats();
        let confine = Filters::new(true).unwrap().confine(ThreadKind::Fs);
        let mut driver = Driver::confined(Box::new(device), &[(GuestAddress(0), MEMORY_SIZE)], confine);
        driver.initialise(u64::MAX);
        // As root of the guest would: files are then this process's own.
        let caller = Caller { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        Self { driver, stats, directory, caller, unique: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn init(&mut self, major: u32, minor: u32, offered: u64) -> Result<Vec<u8>, Errno> {
        let [low, high] = [offered & 0xffff_ffff, offered >> 32].map(|half| u32::try_from(half).unwrap());
        self.call(opcode::INIT, 0, |args| {
            args.u32(major).u32(minor).u32(1 << 17).u32(low).u32(high).zeroes(44)
        })
    }

    /// A request with these arguments; gives the answer.
    fn call(
        &mut self,
        opcode: u32,
        node: u64,
        put: impl FnOnce(&mut Reply) -> &mut Reply,
    ) -> Result<Vec<u8>, Errno> {
        let mut arguments = Reply::default();
        put(&mut arguments);
        let length = u32::try_from(REQUEST_HEADER + arguments.length()).unwrap();
        self.send(length, opcode, node, arguments.bytes())
    }

    /// The same, whose header says that it has `length` bytes.
    fn send(&mut self, length: u32, opcode: u32, node: u64, arguments: &[u8]) -> Result<Vec<u8>, Errno> {
        const ROOM: u32 = 1 << 20;
        self.unique += 1;
        let mut request = Reply::default();
        request.u32(length).u32(opcode).u64(self.unique).u64(node);
        request.u32(self.caller.uid).u32(self.caller.gid).u32(1).u32(0).put(arguments);
        let at = self.driver.place(request.bytes());
        let answer = self.driver.allocate(ROOM as usize);
        let parts = [
            Part::Readable(at, 40),
            Part::Readable(at + 40, u32::try_from(arguments.len()).unwrap()),
            Part::Writable(answer, 16),
            Part::Writable(answer + 16, ROOM - 16),
        ];
        // A descriptor of no length is no part of a request.
        let parts: Vec<_> = parts.into_iter().filter(|part| !matches!(part, Part::Readable(_, 0))).collect();
        let written = self.driver.request(REQUESTS, &parts) as usize;
        let bytes = self.driver.bytes(answer, written);
        self.driver.rewind(at);
        let mut fields = Fields::new(&bytes);
        assert_eq!(fields.u32(), Ok(u32::try_from(written).unwrap()), "the reply is as long as it says");
        let error = fields.u32().unwrap().cast_signed();
        assert_eq!(fields.u64(), Ok(self.unique), "the reply is to the request");
        match error {
            0 => Ok(bytes[REPLY_HEADER as usize..].to_vec()),
            error => {
                assert_eq!(written, REPLY_HEADER as usize, "an error has no answer");
                Err(Errno::from_raw(-error))
            }
        }
    }

    /// A request in memory, for a test that makes its own chain of it.
    fn place(&mut self, opcode: u32, node: u64, put: impl FnOnce(&mut Reply) -> &mut Reply) -> u64 {
        let mut arguments = Reply::default();
        put(&mut arguments);
        let length = REQUEST_HEADER + arguments.length();
        let mut request = Reply::default();
        request.u32(u32::try_from(length).unwrap()).u32(opcode).u64(0).u64(node).zeroes(16);
        self.driver.place(request.put(arguments.bytes()).bytes())
    }

    fn forget(&mut self, node: u64, count: u64) {
        let at = self.place(opcode::FORGET, node, |args| args.u64(count));
        assert_eq!(self.driver.request(HIGH_PRIORITY, &[Part::Readable(at, 48)]), 0);
        self.driver.rewind(at);
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        self.call(opcode::LOOKUP, parent, |args| args.put(&text(name))).map(|answer| entry(&answer))
    }

    fn getattr(&mut self, node: u64) -> Result<Entry, Errno> {
        let answer = self.call(opcode::GETATTR, node, |args| args.zeroes(16))?;
        Ok(attributes(node, &mut Fields::new(&answer[16..])))
    }

    fn open(&mut self, node: u64, flags: u32) -> Result<u64, Errno> {
        let answer = self.call(opcode::OPEN, node, |args| args.u32(flags).u32(0))?;
        Ok(Fields::new(&answer).u64().unwrap())
    }

    fn create(&mut self, parent: u64, name: &str, flags: u32, mode: u32) -> Result<(Entry, u64), Errno> {
        let answer = self.call(opcode::CREATE, parent, |args| {
            args.u32(flags).u32(mode).u32(0o022).u32(0).put(&text(name))
        })?;
        Ok((entry(&answer), Fields::new(&answer[128..]).u64().unwrap()))
    }

    fn mkdir(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let answer = self.call(opcode::MKDIR, parent, |args| args.u32(0o755).u32(0o022).put(&text(name)))?;
        Ok(entry(&answer))
    }

    fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<Entry, Errno> {
        let answer = self.call(opcode::SYMLINK, parent, |args| args.put(&text(name)).put(&text(target)))?;
        Ok(entry(&answer))
    }

    fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), Errno> {
        let names = [text(from.1), text(to.1)].concat();
        self.call(opcode::RENAME2, from.0, |args| args.u64(to.0).u32(flags).u32(0).put(&names)).map(drop)
    }

    fn remove(&mut self, opcode: u32, parent: u64, name: &str) -> Result<(), Errno> {
        self.call(opcode, parent, |args| args.put(&text(name))).map(drop)
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        self.call(opcode::READ, node, |args| args.u64(handle).u64(offset).u32(size).zeroes(20))
    }

    fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_as(node, handle, offset, data, 0, 0)
    }

    /// A write with flags of its own (`FUSE_WRITE_*`), and those of the open file.
    fn write_as(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        flags: u32,
        open_flags: u32,
    ) -> Result<u32, Errno> {
        let size = u32::try_from(data.len()).unwrap();
        let answer = self.call(opcode::WRITE, node, |args| {
            args.u64(handle).u64(offset).u32(size).u32(flags).u64(0).u32(open_flags).u32(0).put(data)
        })?;
        Ok(Fields::new(&answer).u32().unwrap())
    }

    fn release(&mut self, node: u64, handle: u64) -> Result<(), Errno> {
        self.call(opcode::RELEASE, node, |args| args.u64(handle).zeroes(16)).map(drop)
    }
}

/// A text with its end.
fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// The answer to a lookup.
fn entry(answer: &[u8]) -> Entry {
    let node = Fields::new(answer).u64().unwrap();
    attributes(node, &mut Fields::new(&answer[40..]))
}

fn attributes(node: u64, fields: &mut Fields) -> Entry {
    let (inode, size) = (fields.u64().unwrap(), fields.u64().unwrap());
    fields.skip(44).unwrap();
    let [mode, links, uid, gid] = [(); 4].map(|()| fields.u32().unwrap());
    Entry { node, inode, size, mode, links, uid, gid }
}

/// Whether this process is root, as which it can give files away.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("\nrvm-tests: cannot run: only root gives files to other users");
    }
    root
}
