//! As whom each thread of the VMM acts, and what is left of root's rights to it.
//!
//! A VMM that root starts takes a user and a group of its own, which no account and no other VM has: nothing of the host
//! is theirs, and no other process. What a thread goes on doing with names of files it does by numbers of its own for
//! that, credentials(7), and these and capabilities are each thread's (pthreads(7) says how the C library hides that).
//!
//! | thread | user, group | for files | capabilities |
//! |---|---|---|---|
//! | file server | its own | root's: what it makes is root's, until given to whom it is for | of a file server |
//! | socket device | its own | root's: it connects to sockets beside its own, and removes its own | none |
//! | all others | its own | its own | none |
//!
//! A VMM of an ordinary user stays that user's, and has no capabilities to begin with.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{geteuid, setfsgid, setfsuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::seccomp::{Filters, ThreadKind};

/// What serving a directory takes: files of any owner, their owners, modes, device nodes, capabilities, and the
/// attributes `trusted.*`, by which an overlayfs in the guest keeps its books.
const OF_A_FILE_SERVER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// What taking other numbers takes.
const OF_NUMBERS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// The first of the numbers that VMMs take: with a process's number, at most 2^22, added, it is in a range that the
/// lists of who uses which leave free (systemd's UIDS-GIDS: 1879048192 to 2147352575).
const FIRST_NUMBER: u32 = 0x7000_0000;

/// Threads of a VMM with a number of its own: its vCPUs, its devices', and what kernels start for it (vhost, workers of
/// disks' rings), of which there would be any number.
const MOST_THREADS: u64 = 1024;

/// The number of nobody.
const NOBODY: u32 = 65534;

const ROOT: u32 = 0;

/// What this thread, and all that it starts, has left.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    /// The number of its user and group, if it is not that of whoever started this process.
    own: Option<u32>,
    /// Capabilities of a file server are there.
    shares_files: bool,
}

impl Privileges {
    /// Gives up, for this thread and all that it starts, what no thread needs: no other runs yet. For files this thread
    /// is root as before, so that it can remove what it made. If it is root's, `number` becomes its user's and group's.
    pub fn reduce(number: u32, shares_files: bool) -> io::Result<Self> {
        let kept = if shares_files { OF_A_FILE_SERVER } else { CapabilitySet::empty() };
        clear_ambient_capability_set()?;
        // What an execve could give, which nothing here makes; it takes nothing from what is kept.
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // A kernel that does not know it; a user who has none to pass on.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let kept = kept.intersection(capabilities(None)?.permitted);
        let own = take_own_number(number, kept)?;
        keep(kept)?;
        Ok(Self { own, shares_files })
    }

    /// Gives up, for this thread, what one of `kind` does not need.
    pub fn shed(self, kind: ThreadKind) -> io::Result<()> {
        let Self { own, shares_files } = self;
        if let Some(number) = own
            && !matches!(kind, ThreadKind::Fs | ThreadKind::Vsock)
        {
            // It is this thread's own: that takes no capability, and does not fail.
            setfsgid(number.into());
            setfsuid(number.into());
        }
        if shares_files && kind != ThreadKind::Fs {
            keep(CapabilitySet::empty())?;
        }
        if own.is_some() {
            // It comes back with each change of numbers where the host wants cores of such processes (suid_dumpable).
            set_dumpable(false)?;
        }
        Ok(())
    }
}

/// Makes this thread's user and group `number`, or nobody's, with `kept` and root's number for files left, and gives it;
/// `None` if this process is not root, or may not.
fn take_own_number(number: u32, kept: CapabilitySet) -> io::Result<Option<u32>> {
    if !geteuid().is_root() || !capabilities(None)?.effective.contains(OF_NUMBERS) {
        return Ok(None);
    }
    // Threads count as a user's, and root's have no limit; nobody's are others' as well.
    match setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match set_thread_groups(&[]) {
        // In a user namespace that does not let groups go.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    set_keep_capabilities(true)?;
    let mut taken = None;
    for number in [number, NOBODY] {
        if take(number)? {
            taken = Some(number);
            break;
        }
    }
    if taken == Some(number) {
        // Nobody else's count, now that it has the number.
        let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
        let most = hard.min(MOST_THREADS);
        setrlimit(Resource::RLIMIT_NPROC, most, most)?;
    }
    if taken.is_some() {
        // For files this thread is still root.
        keep(kept.union(OF_NUMBERS))?;
        setfsgid(ROOT.into());
        setfsuid(ROOT.into());
    }
    Ok(taken)
}

/// A number for a user that no other VM of this host has while this one runs: of the process, as the host counts it, also
/// in a process namespace. To be called while the host's /proc is there.
pub fn own_number() -> u32 {
    let link = std::fs::read_link("/proc/self").ok();
    let process = link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id);
    FIRST_NUMBER | process & 0x3f_ffff
}

/// Makes `number` this thread's user and group; answers false where a user namespace does not have it.
fn take(number: u32) -> io::Result<bool> {
    let (user, group) = (rustix::process::Uid::from_raw(number), rustix::process::Gid::from_raw(number));
    match set_thread_res_gid(group, group, group).and_then(|()| set_thread_res_uid(user, user, user)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Leaves this thread `kept` of its capabilities.
fn keep(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// What bounds the threads of a VMM: what is left to them of privileges and of system calls.
pub struct Confinement {
    privileges: Privileges,
    filters: Filters,
}

impl Confinement {
    /// Threads with what is left of `privileges`, bounded by `filters`.
    pub fn new(privileges: Privileges, filters: Filters) -> Self {
        Self { privileges, filters }
    }

    /// What is left of privileges.
    pub fn privileges(&self) -> Privileges {
        self.privileges
    }

    /// What a thread of `kind` calls first, on itself. It ends the process when something cannot be given up: a thread
    /// that should be confined must not run without.
    pub fn confine(&self, kind: ThreadKind) -> impl FnOnce() + Send + 'static {
        let (privileges, filter) = (self.privileges, self.filters.confine(kind));
        move || {
            if let Err(error) = privileges.shed(kind) {
                crate::seccomp::cannot_confine(kind, &error);
            }
            filter();
        }
    }
}
