//! The first process of a container: its namespaces, its root, all that is made in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, pipe2, setresgid, setresuid};

use super::program::{self, Streams};
use super::{Failure, Made, files, mounts, set_oom_score, tell_made, terminal};
use crate::container::channel::Channel;
use crate::container::plan::Plan;
use crate::container::plan::namespaces::{IdMaps, lines};
use crate::container::sys::{self, Forked};

/// Where the guest has cgroup v2.
const GROUPS: &str = "/sys/fs/cgroup";

/// What the agent's namespaces have for the container, taken before they are left.
struct Taken {
    root: OwnedFd,
    /// One for each mount; `None`: a new file system.
    sources: Vec<Option<OwnedFd>>,
    /// Joined by the first process itself, once it is in its group.
    cgroup_namespace: Option<OwnedFd>,
}

/// Makes the first process. In that process this does not return, but with what went wrong.
pub fn make(
    plan: &Plan,
    group: &OwnedFd,
    streams: Option<Streams>,
    channel: &Channel,
) -> Result<Made, Failure> {
    let taken = Taken {
        root: mounts::root_tree(&plan.root)?,
        sources: plan
            .mounts
            .iter()
            .map(|mount| mounts::source(mount, Path::new(GROUPS)))
            .collect::<Result<_, _>>()?,
        cgroup_namespace: join_namespaces(plan)?,
    };
    set_oom_score(plan.process.oom_score_adj)?;
    let (mapped, tell_mapped) = pipe2(OFlag::O_CLOEXEC).map_err(Failure::at("make a pipe"))?;

    // The group's own namespace is made inside the group; a new time namespace is only for children, so it is made
    // already.
    let made = plan.namespaces.made & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME);
    let flags = made.cast_unsigned().into();
    match sys::fork_beside(flags, Some(group.as_fd())).map_err(Failure::at("make the first process"))? {
        Forked::Parent(pid, pidfd) => {
            let told = map_ids(plan, pid).and_then(|()| tell_made(channel, pid, &pidfd)).and_then(|made| {
                File::from(tell_mapped).write_all(b"m").map_err(Failure::at("tell the first process"))?;
                Ok(made)
            });
            if told.is_err() {
                // It may have ended already.
                let _ = sys::signal_process(pidfd.as_fd(), libc::SIGKILL);
            }
            told
        }
        Forked::Child => {
            drop(tell_mapped);
            wait_until_mapped(mapped)?;
            become_first(plan, taken, streams, channel)
        }
    }
}

/// Joins what the container shares with others; the cgroup namespace is for later.
fn join_namespaces(plan: &Plan) -> Result<Option<OwnedFd>, Failure> {
    let mut cgroup = None;
    for (flag, path) in &plan.namespaces.joined {
        let failed = || Failure::at(format!("join the namespace {}", path.display()));
        let namespace = OwnedFd::from(File::open(path).map_err(failed())?);
        match *flag {
            libc::CLONE_NEWCGROUP => cgroup = Some(namespace),
            flag => sys::join_namespaces(namespace.as_fd(), flag).map_err(failed())?,
        }
    }
    if plan.namespaces.made & libc::CLONE_NEWTIME != 0 {
        let failed = || Failure::at("make the time namespace");
        unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).map_err(failed())?;
        let offsets = plan.namespaces.time_offsets.concat();
        if !offsets.is_empty() {
            fs::write("/proc/self/timens_offsets", offsets).map_err(Failure::at("set linux.timeOffsets"))?;
        }
    }
    Ok(cgroup)
}

/// Gives the container's user namespace its maps, if it has one.
fn map_ids(plan: &Plan, pid: u32) -> Result<(), Failure> {
    let Some(maps) = &plan.id_maps else {
        return Ok(());
    };
    write_maps(maps, pid).map_err(Failure::at("set linux.uidMappings and linux.gidMappings"))
}

fn write_maps(maps: &IdMaps, pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), lines(&maps.users))?;
    fs::write(format!("/proc/{pid}/gid_map"), lines(&maps.groups))
}

/// Waits until the parent has mapped this process's ids and told the agent of it.
fn wait_until_mapped(mapped: OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    match File::from(mapped).read_exact(&mut byte) {
        Ok(()) => Ok(()),
        // The parent said why.
        Err(_) => Err(Failure::Unwanted),
    }
}

/// A user namespace with these maps that no process is in.
pub fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let (hold, held) = pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork_beside(libc::CLONE_NEWUSER.cast_unsigned().into(), None)? {
        Forked::Child => {
            drop(held);
            // Ends when the parent lets go of its end, or ends itself.
            let _ = File::from(hold).read(&mut [0]);
            sys::exit(0)
        }
        Forked::Parent(pid, _) => {
            drop(hold);
            let namespace = write_maps(maps, pid).and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
            drop(held);
            namespace.map(OwnedFd::from)
        }
    }
}

/// Everything from the new namespaces to the user's program.
fn become_first(
    plan: &Plan,
    taken: Taken,
    streams: Option<Streams>,
    channel: &Channel,
) -> Result<Made, Failure> {
    umask(Mode::empty());
    let in_user_namespace = plan.id_maps.is_some();
    if in_user_namespace {
        be_root()?;
    }
    if let Some(namespace) = &taken.cgroup_namespace {
        sys::join_namespaces(namespace.as_fd(), libc::CLONE_NEWCGROUP)
            .map_err(Failure::at("join the cgroup namespace"))?;
    }
    if plan.namespaces.made & libc::CLONE_NEWCGROUP != 0 {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(Failure::at("make the cgroup namespace"))?;
    }
    program::lead_session()?;
    set_names(plan)?;
    let root = mounts::enter(taken.root, plan.propagation)?;
    let mut later = Vec::new();
    for (mount, source) in plan.mounts.iter().zip(taken.sources) {
        later.extend(mounts::mount(&root, mount, source)?);
    }
    if !brings_devices(plan) {
        files::devices(&root, &plan.devices, in_user_namespace)?;
        files::links(&root)?;
    }
    files::sysctls(&plan.sysctls)?;
    let streams = match streams {
        Some(streams) => streams,
        None => {
            let terminal = terminal::open(&root)?;
            terminal::be_console(&root, &terminal)?;
            Streams::of(terminal)?
        }
    };
    mounts::mask(&root, &plan.masked)?;
    mounts::protect(&root, &plan.read_only_paths)?;
    // A working directory that is missing is made where that can be; if not, entering it says so.
    let _ = root.directory(&plan.process.cwd);
    for mount in later {
        mounts::make_read_only(mount.as_fd())?;
    }
    if plan.read_only {
        mounts::make_read_only(root.as_fd())?;
    }
    mounts::pivot(&root, plan.propagation)?;
    program::run(&plan.process, &root, streams, channel, &plan.hooks, &plan.id)
}

/// Root of its new user namespace; until then nobody, who owns nothing.
pub fn be_root() -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(Failure::at("be root of the user namespace"))?;
    setresuid(uid, uid, uid).map_err(Failure::at("be root of the user namespace"))
}

fn set_names(plan: &Plan) -> Result<(), Failure> {
    if let Some(name) = &plan.host_name {
        nix::unistd::sethostname(name).map_err(Failure::at(format!("set the host name {name:?}")))?;
    }
    if let Some(name) = &plan.domain_name {
        sys::set_domain_name(name).map_err(Failure::at(format!("set the domain name {name:?}")))?;
    }
    Ok(())
}

/// Whether the container's /dev is one of the guest's, in which nothing is made.
fn brings_devices(plan: &Plan) -> bool {
    use crate::container::plan::mounts::Source;
    let mut of_dev = plan.mounts.iter().filter(|mount| mount.target == Path::new("/dev"));
    of_dev.next_back().is_some_and(|mount| matches!(mount.source, Source::Bind { .. }))
}
