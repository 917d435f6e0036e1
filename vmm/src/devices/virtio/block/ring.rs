//! Transfers and flushes by io_uring: many in flight, one system call to start a batch of them.
//!
//! ```text
//!  begin() ──> slot of the head ──> submission ring ──> kernel ──> completion ring ──> next_finished()
//!                                         ▲                               │ carried out in part
//!                                         └───────────────────────────────┘
//! ```
//!
//! A slot belongs to one descriptor head, so that a head that is in flight cannot be so twice. There are as many
//! as the queue has descriptors, each with an iovec of 4 KiB at most: a driver can have no more of the host's
//! memory, whatever it posts. The ring holds the guest's memory mapped while anything is in flight.
//!
//! The ring is made before the thread that uses it is confined, and is then restricted by itself to vectored
//! reads, vectored writes and fsyncs: what a confined thread cannot do by system calls it cannot do through its
//! ring either. The disk's files are not registered with the ring: the kernel takes a ring apart some time after its
//! process has ended, and until then a registered file would stay open, its lock held and its file system busy.

#![allow(unsafe_code, reason = "the kernel is given pointers into guest memory and into the slots")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use io_uring::register::Restriction;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use libc::c_int;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::buffers::{OutsideMemory, Segment};
use super::config::QUEUE_SIZE;
use super::medium::{Medium, Piece, Progress};
use super::request::{Direction, Request, Work};

/// The rings shared with the kernel, and what is in flight in them.
pub struct Ring {
    ring: IoUring,
    /// Written by the kernel when something completes, except while [`Ring::work`] lasts.
    completed: EventFd,
    /// One for each descriptor head of the queue.
    slots: Vec<Slot>,
    in_flight: usize,
    bytes: u64,
    /// What the requests in flight write to and read from. The ring is used from the first [`Ring::attach`] on.
    memory: GuestMemoryMmap,
    write_flags: c_int,
}

#[derive(Default)]
struct Slot {
    request: Option<Request>,
    /// What it is about.
    medium: Option<Arc<Medium>>,
    /// Of a transfer: what is left.
    progress: Progress,
}

impl Ring {
    /// A ring for any files. Fails where the host has no io_uring, or lets this process have none.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(QUEUE_SIZE.into())?;
        let completed = EventFd::new(EFD_NONBLOCK)?;
        let submitter = ring.submitter();
        submitter.register_eventfd(completed.as_raw_fd())?;
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
        ])?;
        submitter.register_enable_rings()?;
        let slots = std::iter::repeat_with(Slot::default).take(QUEUE_SIZE.into()).collect();
        let memory = GuestMemoryMmap::default();
        Ok(Self { ring, completed, slots, in_flight: 0, bytes: 0, memory, write_flags: 0 })
    }

    /// Readable when something completed.
    pub fn completed(&self) -> &EventFd {
        &self.completed
    }

    /// Requests from now on are about `memory`, and writes go with `write_flags` of pwritev2(2). For a ring with
    /// nothing in flight.
    pub fn attach(&mut self, memory: &GuestMemoryMmap, write_flags: c_int) {
        assert_eq!(self.in_flight, 0, "requests in flight keep their memory");
        self.memory = memory.clone();
        self.write_flags = write_flags;
    }

    /// Whether the request of `head` is in flight.
    pub fn holds(&self, head: u16) -> bool {
        self.slots.get(usize::from(head)).is_some_and(|slot| slot.request.is_some())
    }

    /// Whether anything is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Bytes that the transfers in flight move.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes on a transfer of `segments`, not an empty one, or a flush, on `medium`. Its head is not in flight. The
    /// kernel is told by [`Self::next_finished`] or [`Self::wait`].
    pub fn begin(
        &mut self,
        request: &Request,
        segments: &[Segment],
        medium: &Arc<Medium>,
    ) -> Result<(), OutsideMemory> {
        assert!(!self.holds(request.head), "a head is in flight once");
        let index = usize::from(request.head);
        let slot = self.slots.get_mut(index).ok_or(OutsideMemory)?;
        if let Work::Transfer(transfer) = &request.work {
            slot.progress.start(transfer.offset, &self.memory, segments)?;
        }
        slot.medium = Some(medium.clone());
        self.bytes = self.bytes.saturating_add(request.work.bytes());
        self.in_flight = self.in_flight.saturating_add(1);
        slot.request = Some(request.clone());
        self.push(index);
        Ok(())
    }

    /// Starts what was begun, and waits until something is finished. For a ring with something in flight.
    pub fn wait(&mut self) {
        self.enter(1);
    }

    /// Starts what was begun, and gives a request that the host is done with, if there is one.
    pub fn next_finished(&mut self) -> Option<(Request, io::Result<()>)> {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                if self.ring.submission().is_empty() {
                    return None;
                }
                self.enter(0);
                continue;
            };
            let index = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let slot = self.slots.get_mut(index).expect("the kernel answers what it was asked");
            let Some(result) = slot.take(entry.result()) else {
                self.push(index);
                continue;
            };
            slot.progress.clear();
            slot.medium = None;
            let request = slot.request.take().expect("the kernel answers once");
            self.in_flight = self.in_flight.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(request.work.bytes());
            return Some((request, result));
        }
    }

    /// From here to [`Self::listen`] the caller looks for completions itself.
    pub fn work(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// From here on completions make [`Self::completed`] readable. Answers whether some are there already.
    pub fn listen(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel publishes a completion before it looks whether to tell; this side asks to be told before
        // it looks for completions. One of both sees the other.
        fence(Ordering::SeqCst);
        !self.ring.completion().is_empty()
    }

    /// Puts what the slot at `index` has left to do into the submission ring.
    fn push(&mut self, index: usize) {
        let slot = self.slots.get_mut(index).filter(|slot| slot.request.is_some());
        let entry =
            slot.and_then(|slot| slot.entry(self.write_flags)).expect("a slot with something left to do");
        let entry = entry.user_data(index as u64);
        // SAFETY: the iovec is the slot's, the memory it names is `self.memory`, the file is of the slot's medium.
        // None is touched until the request is finished: the slot is taken, and whoever drops the ring waits first.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the submission ring has room for every slot");
    }

    /// Gives the kernel all submissions, and waits for `wanted` completions.
    ///
    /// # Panics
    /// When the kernel refuses the ring as such: it may hold requests on guest memory that nobody would ever
    /// hear of again, and nothing that a guest or a user does leads there.
    fn enter(&mut self, wanted: usize) {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) if self.ring.submission().is_empty() => return,
                // An entry that the kernel did not like ends a submission: it completes with an error, and
                // those behind it are still there.
                Ok(_) => {}
                // A signal, or no memory for requests just now.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => panic!("io_uring_enter refuses the ring of a disk: {error}"),
            }
        }
    }
}

impl Drop for Ring {
    /// Closing a ring does not wait for what is in flight in it.
    fn drop(&mut self) {
        while !self.is_idle() {
            self.wait();
            while self.next_finished().is_some() {}
        }
    }
}

impl Slot {
    /// What the kernel is asked to do next.
    fn entry(&mut self, write_flags: c_int) -> Option<Entry> {
        let (direction, medium) = (self.direction(), self.medium.as_ref()?);
        let Some(direction) = direction else {
            let disk = Fd(medium.file().file.as_raw_fd());
            return Some(opcode::Fsync::new(disk).flags(FsyncFlags::DATASYNC).build());
        };
        let Piece { file, offset, data } = self.progress.piece(medium)?;
        let (file, iovecs) = (Fd(file.as_raw_fd()), data.remaining());
        let count = u32::try_from(iovecs.len()).ok()?;
        Some(match direction {
            Direction::Read => opcode::Readv::new(file, iovecs.as_ptr(), count).offset(offset).build(),
            Direction::Write => {
                opcode::Writev::new(file, iovecs.as_ptr(), count).offset(offset).rw_flags(write_flags).build()
            }
        })
    }

    /// Of a transfer; what else is in flight is a flush.
    fn direction(&self) -> Option<Direction> {
        match self.request.as_ref()?.work {
            Work::Transfer(transfer) => Some(transfer.direction),
            _ => None,
        }
    }

    /// Takes the kernel's `result`: `None` when there is more to ask for.
    fn take(&mut self, result: i32) -> Option<io::Result<()>> {
        match usize::try_from(result) {
            Err(_) if matches!(result.wrapping_neg(), libc::EINTR | libc::EAGAIN) => None,
            Err(_) => Some(Err(io::Error::from_raw_os_error(result.wrapping_neg()))),
            Ok(_) if self.direction().is_none() => Some(Ok(())),
            // The file was cut off after it was opened.
            Ok(0) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(done) => {
                self.progress.advance(done);
                self.progress.is_done().then_some(Ok(()))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_ring_does_nothing_but_vectored_io_and_flushes() {
        let zero = File::open("/dev/zero").unwrap();
        let mut ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return println!("\nrvm-tests: cannot run: this host has no io_uring: {error}"),
        };
        let (ring, disk) = (&mut ring.ring, Fd(zero.as_raw_fd()));
        let mut byte = 0_u8;
        let iovec = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let entries = [
            (opcode::Nop::new().build(), -libc::EACCES),
            (opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/dev/null".as_ptr()).build(), -libc::EACCES),
            (opcode::Close::new(disk).build(), -libc::EACCES),
            (opcode::Read::new(disk, &raw mut byte, 1).build(), -libc::EACCES),
            (opcode::Readv::new(disk, &iovec, 1).build(), 1),
        ];
        for (entry, result) in entries {
            // SAFETY: what the entries point to outlives the wait below.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), result, "{entry:?}");
        }
        let refused = ring.submitter().register_files(&[zero.as_raw_fd()]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
