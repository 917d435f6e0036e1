//! One more process of a running container: it joins the namespaces of the first and its group.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{Mode, umask};

use super::program::{self, Streams};
use super::root::Root;
use super::{Failure, Made, first, set_oom_score, tell_made, terminal};
use crate::container::channel::Channel;
use crate::container::plan::process::ProcessPlan;
use crate::container::sys::{self, Forked};

/// Makes the process. In that process this does not return, but with what went wrong.
///
/// The process is born in the group, which the kernel allows while it is neither in the container's cgroup namespace
/// nor in its user namespace; those two it joins itself.
pub fn make(
    process: &ProcessPlan,
    namespaces: i32,
    group: &OwnedFd,
    container: &OwnedFd,
    streams: Option<Streams>,
    channel: &Channel,
) -> Result<Made, Failure> {
    const LATER: i32 = libc::CLONE_NEWCGROUP | libc::CLONE_NEWUSER;
    set_oom_score(process.oom_score_adj)?;
    join(container, namespaces & !LATER)?;
    match sys::fork_beside(0, Some(group.as_fd())).map_err(Failure::at("make the process"))? {
        Forked::Parent(pid, pidfd) => tell_made(channel, pid, &pidfd),
        Forked::Child => {
            umask(Mode::empty());
            join(container, namespaces & libc::CLONE_NEWCGROUP)?;
            if namespaces & libc::CLONE_NEWUSER != 0 {
                join(container, libc::CLONE_NEWUSER)?;
                first::be_root()?;
            }
            program::lead_session()?;
            let root = Root::own().map_err(Failure::at("open the container's root"))?;
            let streams = match streams {
                Some(streams) => streams,
                None => Streams::of(terminal::open(&root)?)?,
            };
            program::run(process, &root, streams, channel, &[], "")
        }
    }
}

fn join(container: &OwnedFd, namespaces: i32) -> Result<(), Failure> {
    match namespaces {
        0 => Ok(()),
        _ => sys::join_namespaces(container.as_fd(), namespaces)
            .map_err(Failure::at("join the container's namespaces")),
    }
}
