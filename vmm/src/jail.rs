//! What the VMM gives up before the guest runs: everything that only its preparation took, so that whoever breaks out of
//! the guest has no use for what is left.
//!
//! - Files. In a mount namespace of its own the root is an empty directory; below it is what devices look names up in
//!   ([`Lookups`]): the shared directories, and that of the socket device. What was opened before stays open.
//! - System V objects and the host's name: namespaces of its own.
//! - Root's number, and its capabilities: [`crate::privileges`] has what is left of them to which thread.
//! - Resources of the host that no device needs: limits (adr 15 says which, and why no others).
//!
//! Namespaces take CAP_SYS_ADMIN: a VMM of an ordinary user, which has no capabilities to begin with, stays where it is,
//! with what that user may do. What is left of system calls is in [`crate::seccomp`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{chdir, chroot, mkdir, pivot_root};
use rustix::thread::{CapabilitySet, capabilities, set_no_new_privs};

use crate::privileges::{self, Privileges};

/// Where the new root is put together: a directory that every host with a /dev/kvm has.
const WORKSHOP: &str = "/dev";

/// What the new root may take of the host's memory: a directory or file for each lookup, and nothing in them.
const ROOT_OPTIONS: &str = "mode=755,size=64k,nr_inodes=1k";

/// What a VMM has nothing of: cores, which would have the guest's memory in them, POSIX message queues, and ranks before
/// other processes. Ranks that whoever started it gave it stay.
const NOTHING_OF: [Resource; 4] =
    [Resource::RLIMIT_CORE, Resource::RLIMIT_MSGQUEUE, Resource::RLIMIT_NICE, Resource::RLIMIT_RTPRIO];

/// Bytes that it may lock into memory, which is what Linux gives every process: rings of disks count on older kernels.
const LOCKED: u64 = 8 << 20;

const NONE: Option<&str> = None;

/// Whatever looks names up in the host's file system while the guest runs.
pub trait Lookups {
    /// Has `within` give each descriptor that names are looked up in anew, and from now on uses what it gives: the same
    /// directory or file, as a mount of its own.
    fn relocate(&mut self, within: Within<'_>) -> io::Result<()>;
}

/// Gives what a descriptor is open on (O_PATH) as the root of a mount of its own, beyond which no `..` leads.
pub type Within<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<OwnedFd>;

/// The namespaces of this thread and of all that it starts, where everything still is as on the host.
pub struct Jail {
    /// Whether there are any.
    apart: bool,
    /// What may become this process's user.
    number: u32,
}

impl Jail {
    /// Makes namespaces, if this process may, before anything is opened: only what is opened within a mount namespace can
    /// be mounted there again.
    pub fn prepare() -> io::Result<Self> {
        let apart = capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN);
        if apart {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
            // What is mounted on the host appears here, below a shared directory as well; nothing goes the other way.
            mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
        }
        Ok(Self { apart, number: privileges::own_number() })
    }

    /// Gives up, for this thread and all that it starts, what no later step needs; gives what is left. Every path has been
    /// opened; no other thread runs yet.
    pub fn enter(self, lookups: &mut dyn Lookups, shares_files: bool) -> io::Result<Privileges> {
        limit()?;
        set_no_new_privs(true)?;
        if self.apart {
            leave_the_hosts_files(lookups)?;
        }
        Privileges::reduce(self.number, shares_files)
    }
}

/// Takes resources of the host away that no device needs. How many descriptors there may be is known where files are
/// shared, and how many threads where their user is taken.
fn limit() -> io::Result<()> {
    for resource in NOTHING_OF {
        setrlimit(resource, 0, 0)?;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, soft.min(LOCKED), hard.min(LOCKED))?)
}

/// Makes a root of what `lookups` has, and enters it.
fn leave_the_hosts_files(lookups: &mut dyn Lookups) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("rvm"), WORKSHOP, Some("tmpfs"), flags, Some(ROOT_OPTIONS))?;
    let mut number = 0;
    lookups.relocate(&mut |fd| {
        number += 1;
        bind(fd, &Path::new(WORKSHOP).join(number.to_string()))
    })?;
    let read_only = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, WORKSHOP, NONE, read_only, NONE)?;
    chdir(WORKSHOP)?;
    match pivot_root(".", ".") {
        // The old root is on top of the new one.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The root is no mount, or the one that the kernel began with: neither can be left, only covered.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
            chroot(".")?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(chdir("/")?)
}

/// Mounts what `fd` is open on, with what is mounted below it, at `target`, which is made, and opens that.
fn bind(fd: BorrowedFd<'_>, target: &Path) -> io::Result<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFDIR {
        mkdir(target, Mode::S_IRWXU)?;
    } else {
        std::fs::File::create_new(target)?;
    }
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    mount(Some(source.as_str()), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    Ok(open(target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}
