//! A process of a container: `process` of the specification, and what `linux` has for each process.

use std::ffi::c_int;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, IOPriorityClass, Linux, LinuxCapabilities, LinuxPersonalityDomain, PosixRlimit,
    PosixRlimitType, Process,
};
use serde::{Deserialize, Serialize};

use crate::container::Error;
use crate::container::seccomp::Filter;

/// What a process is to be before it becomes the user's program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// It gets a terminal of the container's devpts.
    pub terminal: bool,
    /// The terminal's columns and rows, where the request has none.
    pub console_size: Option<(u16, u16)>,
    /// The program's name first; never empty.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// In the container.
    pub cwd: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask; what the agent has otherwise.
    pub umask: Option<u32>,
    /// All five sets.
    pub capabilities: Capabilities,
    /// Set by the agent, which may raise them.
    pub limits: Vec<Limit>,
    /// Programs with set-user-ID or file capabilities give nothing.
    pub no_new_privileges: bool,
    /// Of /proc/PID/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// As ioprio_set(2) takes it.
    pub io_priority: Option<c_int>,
    /// As personality(2) takes it.
    pub personality: Option<u32>,
    /// The calls it may make.
    pub filter: Option<Filter>,
}

/// The capability sets, a bit for each capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// CapBnd of /proc/PID/status.
    pub bounding: u64,
    /// CapEff.
    pub effective: u64,
    /// CapPrm.
    pub permitted: u64,
    /// CapInh.
    pub inheritable: u64,
    /// CapAmb.
    pub ambient: u64,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// RLIMIT_*.
    pub resource: u32,
    /// What holds.
    pub soft: u64,
    /// What it can be raised to.
    pub hard: u64,
}

impl ProcessPlan {
    /// Checks the first process of a container.
    pub fn of(process: &Process, linux: &Linux, terminal: bool) -> Result<Self, Error> {
        let filter = super::filter(linux.seccomp().as_ref())?;
        let personality = match linux.personality() {
            None => None,
            Some(personality) if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) => {
                return Err(Error::unsupported("linux.personality.flags", "the specification defines none"));
            }
            Some(personality) => Some(match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
            }),
        };
        Self::with(process, terminal, Capabilities::default(), filter, personality)
    }

    /// Checks a process of a container that is there: what its specification leaves out is as the first
    /// process has it.
    pub fn beside(&self, process: &Process, terminal: bool) -> Result<Self, Error> {
        Self::with(process, terminal, self.capabilities, self.filter.clone(), self.personality)
    }

    fn with(
        process: &Process,
        terminal: bool,
        capabilities: Capabilities,
        filter: Option<Filter>,
        personality: Option<u32>,
    ) -> Result<Self, Error> {
        refuse(process)?;
        if process.terminal().unwrap_or_default() != terminal {
            return Err(Error::invalid("process.terminal", "the streams of the request say otherwise"));
        }
        let args = process.args().clone().unwrap_or_default();
        if args.is_empty() {
            return Err(Error::invalid("process.args", "there is no program in it"));
        }
        let env = process.env().clone().unwrap_or_default();
        no_zero_bytes("process.args", &args)?;
        no_zero_bytes("process.env", &env)?;
        if !process.cwd().is_absolute() {
            return Err(Error::invalid("process.cwd", "it is not absolute"));
        }
        let user = process.user();
        Ok(Self {
            terminal,
            console_size: process.console_size().as_ref().map(console_size).transpose()?,
            args,
            env,
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().map(|mask| mask & 0o777),
            capabilities: process.capabilities().as_ref().map_or(Ok(capabilities), sets)?,
            limits: process.rlimits().iter().flatten().map(limit).collect::<Result<_, _>>()?,
            no_new_privileges: process.no_new_privileges().unwrap_or_default(),
            oom_score_adj: oom_score_adj(process.oom_score_adj())?,
            io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
            personality,
            filter,
        })
    }
}

/// Refuses what the guest's kernel cannot do, and what is not done yet.
fn refuse(process: &Process) -> Result<(), Error> {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        ("process.apparmorProfile", set(process.apparmor_profile()), "the guest's kernel has no AppArmor"),
        ("process.selinuxLabel", set(process.selinux_label()), "the guest's kernel has no SELinux"),
        ("process.commandLine", set(process.command_line()), "it is for Windows"),
        ("process.user.username", set(process.user().username()), "it is for Windows"),
        ("process.scheduler", process.scheduler().is_some(), "a guest's processes share its CPUs evenly"),
    ];
    match refused.into_iter().find(|(_, there, _)| *there) {
        Some((field, _, reason)) => Err(Error::unsupported(field, reason)),
        None => Ok(()),
    }
}

/// Words that are to go to a program end with a zero byte and have none inside.
pub fn no_zero_bytes<'a>(field: &str, words: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    match words.into_iter().any(|word| word.contains('\0')) {
        true => Err(Error::invalid(field, "there is a zero byte in it")),
        false => Ok(()),
    }
}

fn console_size(size: &oci_spec::runtime::Box) -> Result<(u16, u16), Error> {
    let side = |side: u64| {
        u16::try_from(side)
            .map_err(|_| Error::invalid("process.consoleSize", format!("no terminal has {side} characters")))
    };
    Ok((side(size.width())?, side(size.height())?))
}

fn sets(capabilities: &LinuxCapabilities) -> Result<Capabilities, Error> {
    let bits = |set: &Option<oci_spec::runtime::Capabilities>| {
        set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability))
    };
    let sets = Capabilities {
        bounding: bits(capabilities.bounding()),
        effective: bits(capabilities.effective()),
        permitted: bits(capabilities.permitted()),
        inheritable: bits(capabilities.inheritable()),
        ambient: bits(capabilities.ambient()),
    };
    // capabilities(7): what is effective is permitted, what is ambient is permitted and inheritable.
    if sets.effective & !sets.permitted != 0 {
        return Err(Error::invalid("process.capabilities.effective", "not all of it is permitted"));
    }
    if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
        return Err(Error::invalid(
            "process.capabilities.ambient",
            "not all of it is permitted and inheritable",
        ));
    }
    Ok(sets)
}

/// Its number in capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn limit(limit: &PosixRlimit) -> Result<Limit, Error> {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    let (soft, hard) = (limit.soft(), limit.hard());
    match soft <= hard {
        true => Ok(Limit { resource, soft, hard }),
        false => {
            let field = format!("process.rlimits[{}]", limit.typ());
            Err(Error::invalid(field, format!("the soft limit {soft} is above the hard one, {hard}")))
        }
    }
}

fn oom_score_adj(score: Option<i32>) -> Result<Option<i32>, Error> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Error::invalid("process.oomScoreAdj", format!("{score} is not from -1000 to 1000")))
        }
        score => Ok(score),
    }
}

/// `uname` says that the machine has 32 bits (linux/personality.h).
const PER_LINUX32: u32 = 8;

/// The class stands above this many bits of priority.
const CLASS_SHIFT: u32 = 13;

fn io_priority(priority: &oci_spec::runtime::LinuxIOPriority) -> Result<c_int, Error> {
    let class: c_int = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match c_int::try_from(priority.priority()) {
        Ok(level @ 0..8) => Ok(class << CLASS_SHIFT | level),
        _ => Err(Error::invalid("process.ioPriority.priority", "it is not from 0 to 7")),
    }
}
