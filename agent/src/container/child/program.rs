//! The last steps of a process of the container: its streams, then, once the agent lets it go, its user, its
//! capabilities, its filter, and its program.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, execve, fchdir, fchown, setgroups, setresgid, setresuid, setsid};

use super::root::Root;
use super::terminal::Terminal;
use super::{Failure, Made, hooks};
use crate::container::channel::{Answer, Channel};
use crate::container::plan::Hook;
use crate::container::plan::process::{Capabilities, ProcessPlan};
use crate::container::sys::{self, CapabilitySets};

/// What a process has where its specification says nothing.
const UMASK: Mode = Mode::from_bits_retain(0o022);
/// Where a program is looked for that is named without a slash, if the environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// No kernel has more capabilities than a set has bits.
const CAPABILITIES: u32 = 64;

/// What becomes standard input, output and error.
pub struct Streams {
    streams: [OwnedFd; 3],
    /// The streams are a terminal, and this is its master.
    terminal: Option<OwnedFd>,
}

impl Streams {
    /// Those of a process without a terminal.
    pub fn given(streams: [OwnedFd; 3]) -> Self {
        Self { streams, terminal: None }
    }

    /// A terminal, three times; it becomes the session's.
    pub fn of(terminal: Terminal) -> Result<Self, Failure> {
        let Terminal { master, slave } = terminal;
        let failed = || Failure::at("take the terminal");
        sys::control_terminal(slave.as_fd()).map_err(failed())?;
        let streams = [slave.try_clone().map_err(failed())?, slave.try_clone().map_err(failed())?, slave];
        Ok(Self { streams, terminal: Some(master) })
    }
}

/// Makes this process leader of a session and of a session keyring of its own.
pub fn lead_session() -> Result<(), Failure> {
    setsid().map_err(Failure::at("lead a session"))?;
    match sys::new_session_keyring() {
        // A kernel without keyrings has none to share.
        Err(err) if err.raw_os_error() != Some(libc::ENOSYS) => {
            Err(Failure::at("make a session keyring")(err))
        }
        _ => Ok(()),
    }
}

/// Makes this process ready, waits until it may go on, and becomes its program: what comes back is what failed.
pub fn run(
    process: &ProcessPlan,
    root: &Root,
    streams: Streams,
    channel: &Channel,
    hooks: &[Hook],
    id: &str,
) -> Result<Made, Failure> {
    let cwd = root
        .open(&process.cwd, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(Failure::at(format!("enter process.cwd {}", process.cwd.display())))?;
    fchdir(&cwd).map_err(Failure::at(format!("enter process.cwd {}", process.cwd.display())))?;
    take_streams(&streams, process)?;
    let Streams { streams, terminal } = streams;
    channel
        .answer(&Answer::Ready, terminal.as_ref().map(AsFd::as_fd))
        .map_err(Failure::at("tell the agent that the process is ready"))?;
    drop((streams, terminal));

    match channel.wait_to_go() {
        Ok(true) => {}
        Ok(false) => return Err(Failure::Unwanted),
        Err(err) => return Err(Failure::at("wait for the start")(err)),
    }
    hooks::run(hooks, id)?;
    become_user(process)?;
    Err(execute(process))
}

/// Makes the streams standard input, output and error, and a terminal the user's (pipes are already).
fn take_streams(streams: &Streams, process: &ProcessPlan) -> Result<(), Failure> {
    let owner = Uid::from_raw(process.uid);
    for (number, stream) in (0..).zip(&streams.streams) {
        let take = || {
            if streams.terminal.is_some() {
                fchown(stream, Some(owner), None)?;
            }
            sys::be_standard(stream.as_fd(), number)
        };
        take().map_err(Failure::at(format!("make a stream descriptor {number}")))?;
    }
    sys::close_on_exec_from(3).map_err(Failure::at("close what is not the container's"))
}

/// Becomes the user, with what the user may do.
fn become_user(process: &ProcessPlan) -> Result<(), Failure> {
    sys::restore_signals().map_err(Failure::at("give signals their default action"))?;
    SigSet::empty().thread_set_mask().map_err(Failure::at("let signals in"))?;
    umask(process.umask.map_or(UMASK, Mode::from_bits_retain));
    if let Some(personality) = process.personality {
        let personality = nix::sys::personality::Persona::from_bits_retain(personality.cast_signed());
        nix::sys::personality::set(personality).map_err(Failure::at("set linux.personality"))?;
    }
    if let Some(priority) = process.io_priority {
        sys::set_io_priority(priority).map_err(Failure::at("set process.ioPriority"))?;
    }
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(Failure::at("set process.noNewPrivileges"))?;
    } else {
        // Then the kernel takes a filter from CAP_SYS_ADMIN only, which the user may not have.
        install_filter(process)?;
    }
    drop_from_bounding(process.capabilities.bounding)?;
    nix::sys::prctl::set_keepcaps(true).map_err(Failure::at("keep capabilities"))?;
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(Failure::at("set process.user.additionalGids"))?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    setresgid(gid, gid, gid).map_err(Failure::at(format!("set process.user.gid {gid}")))?;
    setresuid(uid, uid, uid).map_err(Failure::at(format!("set process.user.uid {uid}")))?;
    set_capabilities(&process.capabilities)?;
    if process.no_new_privileges {
        install_filter(process)?;
    }
    Ok(())
}

fn install_filter(process: &ProcessPlan) -> Result<(), Failure> {
    let Some(filter) = &process.filter else {
        return Ok(());
    };
    let step = |&(code, jt, jf, k): &(u16, u8, u8, u32)| libc::sock_filter { code, jt, jf, k };
    let program: Vec<_> = filter.program.iter().map(step).collect();
    sys::install_filter(&program, filter.flags).map_err(Failure::at("install linux.seccomp"))
}

/// Drops what is not in `bounding` from the bounding set.
fn drop_from_bounding(bounding: u64) -> Result<(), Failure> {
    for capability in (0..CAPABILITIES).filter(|capability| bounding & 1 << capability == 0) {
        match sys::drop_from_bounding(capability) {
            // The kernel has no more.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => break,
            result => result.map_err(Failure::at("set process.capabilities.bounding"))?,
        }
    }
    Ok(())
}

fn set_capabilities(capabilities: &Capabilities) -> Result<(), Failure> {
    let Capabilities { bounding: _, effective, permitted, inheritable, ambient } = *capabilities;
    sys::set_capabilities(CapabilitySets { effective, permitted, inheritable })
        .map_err(Failure::at("set process.capabilities"))?;
    for capability in (0..CAPABILITIES).filter(|capability| ambient & 1 << capability != 0) {
        sys::raise_ambient(capability).map_err(Failure::at("set process.capabilities.ambient"))?;
    }
    Ok(())
}

/// Executes the program; what comes back is why not.
fn execute(process: &ProcessPlan) -> Failure {
    let words = |words: &[String]| -> Option<Vec<CString>> {
        words.iter().map(|word| CString::new(word.as_str()).ok()).collect()
    };
    let (Some(args), Some(env)) = (words(&process.args), words(&process.env)) else {
        return Failure::Program(Errno::EINVAL);
    };
    let mut reason = Errno::ENOENT;
    for candidate in candidates(process) {
        let Ok(candidate) = CString::new(candidate) else {
            return Failure::Program(Errno::EINVAL);
        };
        let Err(err) = execve(&candidate, &args, &env);
        match err {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // A directory of the path that cannot be searched, or a file that is no program: there may be another.
            Errno::EACCES => reason = err,
            err => return Failure::Program(err),
        }
    }
    Failure::Program(reason)
}

/// The files that the program's name may mean, by the environment it gets.
fn candidates(process: &ProcessPlan) -> Vec<String> {
    let Some(name) = process.args.first() else {
        return Vec::new();
    };
    if name.contains('/') {
        return vec![name.clone()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    let path = process.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':');
    // An empty directory is the working directory.
    directories
        .map(
            |directory| {
                if directory.is_empty() { format!("./{name}") } else { format!("{directory}/{name}") }
            },
        )
        .collect()
}
