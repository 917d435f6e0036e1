//! The namespaces of a container, and what is set in them: `linux.namespaces`, `linux.uidMappings`,
//! `linux.gidMappings`, `linux.timeOffsets`, `linux.sysctl`.

use std::ffi::c_int;
use std::fmt::Write;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use crate::container::Error;

/// Those a container gets, and those it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// CLONE_NEW* of those that are made.
    pub made: c_int,
    /// CLONE_NEW* of those that are joined, and their files in the guest.
    pub joined: Vec<(c_int, PathBuf)>,
    /// Lines for /proc/self/timens_offsets.
    pub time_offsets: Vec<String>,
}

/// The maps of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub users: Vec<IdRange>,
    /// Of groups.
    pub groups: Vec<IdRange>,
}

/// A line of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// CLONE_NEWTIME has a bit that CLONE_NEW* of clone(2) has for signals; clone3 and unshare take it.
const NEW_TIME: c_int = libc::CLONE_NEWTIME;

impl Namespaces {
    /// Checks `linux.namespaces` and `linux.timeOffsets`.
    pub fn of(linux: &Linux) -> Result<Self, Error> {
        let mut namespaces = Self::default();
        for namespace in linux.namespaces().iter().flatten() {
            let flag = flag(namespace.typ());
            let field = format!("linux.namespaces[{}]", namespace.typ());
            if namespaces.has(flag) {
                return Err(Error::invalid(field, "it is there twice"));
            }
            match namespace.path() {
                None => namespaces.made |= flag,
                Some(path) => {
                    if matches!(namespace.typ(), LinuxNamespaceType::Mount | LinuxNamespaceType::User) {
                        let reason = "mounts are the container's own, and so is the user namespace over them";
                        return Err(Error::unsupported(format!("{field}.path"), reason));
                    }
                    if !path.is_absolute() {
                        return Err(Error::invalid(format!("{field}.path"), "it is not absolute"));
                    }
                    namespaces.joined.push((flag, path.clone()));
                }
            }
        }
        if !namespaces.has(libc::CLONE_NEWNS) {
            let reason = "a container without a mount namespace would mount over the guest's files";
            return Err(Error::unsupported("linux.namespaces without mount", reason));
        }
        namespaces.time_offsets = namespaces.time_offsets(linux)?;
        Ok(namespaces)
    }

    /// Whether the container has its own of this kind (CLONE_NEW*), made or joined.
    pub fn has(&self, flag: c_int) -> bool {
        self.all() & flag != 0
    }

    /// CLONE_NEW* of all.
    pub fn all(&self) -> c_int {
        self.joined.iter().fold(self.made, |all, (flag, _)| all | flag)
    }

    fn time_offsets(&self, linux: &Linux) -> Result<Vec<String>, Error> {
        let field = "linux.timeOffsets";
        let offsets = linux.time_offsets().iter().flatten();
        let mut lines = Vec::new();
        for (clock, offset) in offsets {
            if self.made & NEW_TIME == 0 {
                return Err(Error::invalid(field, "the container gets no time namespace"));
            }
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(Error::invalid(field, format!("there is no clock {clock:?}")));
            }
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
        }
        Ok(lines)
    }
}

fn flag(kind: LinuxNamespaceType) -> c_int {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => NEW_TIME,
    }
}

/// The maps of the container's user namespace; `None`: it has none.
pub fn id_maps(linux: &Linux, namespaces: &Namespaces) -> Result<Option<IdMaps>, Error> {
    let users = ranges("linux.uidMappings", linux.uid_mappings().as_deref())?;
    let groups = ranges("linux.gidMappings", linux.gid_mappings().as_deref())?;
    let maps = IdMaps { users, groups };
    if !namespaces.has(libc::CLONE_NEWUSER) {
        return match maps == IdMaps::default() {
            true => Ok(None),
            false => Err(Error::invalid("linux.uidMappings", "the container gets no user namespace")),
        };
    }
    for (field, ranges) in [("linux.uidMappings", &maps.users), ("linux.gidMappings", &maps.groups)] {
        if !ranges.iter().any(|range| range.inside == 0) {
            return Err(Error::invalid(field, "it does not map id 0, whose the container's mounts are"));
        }
    }
    Ok(Some(maps))
}

/// The id outside for one inside; `None`: there is none.
pub fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    let at = |range: &IdRange| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    };
    ranges.iter().find_map(at)
}

/// A map of the specification.
pub fn ranges(field: &str, mappings: Option<&[LinuxIdMapping]>) -> Result<Vec<IdRange>, Error> {
    let range = |mapping: &LinuxIdMapping| {
        let (inside, outside, count) = (mapping.container_id(), mapping.host_id(), mapping.size());
        // The last id, 2^32 - 1, stands for none.
        let ends = [inside, outside].map(|first| first.checked_add(count));
        match count > 0 && ends.iter().all(Option::is_some) {
            true => Ok(IdRange { inside, outside, count }),
            false => Err(Error::invalid(field, format!("{count} ids from {outside} on cannot be mapped"))),
        }
    };
    mappings.unwrap_or_default().iter().map(range).collect()
}

/// Lines as /proc/PID/uid_map takes them.
pub fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut lines, IdRange { inside, outside, count }| {
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{inside} {outside} {count}");
        lines
    })
}

/// `linux.sysctl`: those that belong to a namespace which the container has of its own. What holds for the whole
/// guest is set by the sandbox.
pub fn sysctls(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<(String, String)>, Error> {
    let sysctls = linux.sysctl().iter().flatten();
    let check = |(name, value): (&String, &String)| {
        let field = format!("linux.sysctl[{name}]");
        let word = |word: &str| !word.is_empty() && word != ".." && !word.contains('\0');
        if !name.split(['.', '/']).all(word) {
            return Err(Error::invalid(field, "it is no name of a sysctl"));
        }
        match namespace_of(&name.replace('/', ".")) {
            None => Err(Error::unsupported(field, "it holds for the whole guest: the sandbox sets it")),
            Some(flag) if !namespaces.has(flag) => {
                Err(Error::invalid(field, "the container shares the namespace that it belongs to"))
            }
            Some(_) => Ok((name.clone(), value.clone())),
        }
    };
    sysctls.map(check).collect()
}

/// CLONE_NEW* of the namespace that a sysctl belongs to (Linux: ipc/ipc_sysctl.c, ipc/mq_sysctl.c).
fn namespace_of(name: &str) -> Option<c_int> {
    const OF_IPC: [&str; 11] = [
        "kernel.auto_msgmni",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.shm_next_id",
    ];
    match name {
        "kernel.domainname" | "kernel.hostname" => Some(libc::CLONE_NEWUTS),
        name if OF_IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(libc::CLONE_NEWIPC),
        name if name.starts_with("net.") => Some(libc::CLONE_NEWNET),
        _ => None,
    }
}
