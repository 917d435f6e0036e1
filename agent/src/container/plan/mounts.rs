//! `mounts` of the specification: bind mounts and file systems, with their options.
//!
//! The options are those of the specification (config.md, "Linux mount options"); what none of them is, is the file
//! system's own. Sources of bind mounts are paths of the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::namespaces::{IdMaps, Namespaces, ranges};
use crate::container::Error;
use crate::container::sys::Attributes;

/// Something mounted in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, in the container.
    pub target: PathBuf,
    /// What.
    pub source: Source,
    /// Of this mount.
    pub attributes: Attributes,
    /// Of this mount and those below it.
    pub recursive: Attributes,
    /// MS_PRIVATE, ..., with MS_REC or without; 0: as a new mount is.
    pub propagation: u64,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A file or directory of the guest.
    Bind {
        /// In the guest.
        path: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// Owners of its files are other ones in the container.
        id_map: Option<IdMap>,
    },
    /// The control groups, as the guest has them: the container has no cgroup namespace.
    GuestCgroups,
    /// A file system.
    New {
        /// Its type.
        kind: String,
        /// Options, with a value or without.
        options: Vec<(String, Option<String>)>,
    },
}

/// An id-mapped mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The map.
    pub maps: IdMaps,
    /// For what is mounted below it, too.
    pub recursive: bool,
}

/// MOUNT_ATTR__ATIME: the bits that say when access times are written.
const ACCESS_TIME: u64 = 0x70;

/// Checks `mounts`.
pub fn plan(
    mounts: &[oci_spec::runtime::Mount],
    namespaces: &Namespaces,
    container: Option<&IdMaps>,
) -> Result<Vec<Mount>, Error> {
    mounts.iter().map(|mount| one(mount, namespaces, container)).collect()
}

/// What the options of a mount say, all together.
#[derive(Default)]
struct Options {
    attributes: Attributes,
    recursive: Attributes,
    propagation: u64,
    /// `Some(true)`: with what is mounted below.
    bind: Option<bool>,
    id_map: Option<bool>,
    /// The file system's own.
    data: Vec<(String, Option<String>)>,
}

fn one(
    mount: &oci_spec::runtime::Mount,
    namespaces: &Namespaces,
    container: Option<&IdMaps>,
) -> Result<Mount, Error> {
    let field = |name: &str| format!("mounts[{}].{name}", mount.destination().display());
    let mut options = Options::default();
    for option in mount.options().iter().flatten() {
        options.take(option).map_err(|reason| match reason {
            Some(reason) => Error::unsupported(format!("{} {option}", field("options")), reason),
            None => Error::invalid(field("options"), format!("a zero byte in {option:?}")),
        })?;
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    // Docker and containerd say "bind" for the type, too.
    let bind = options.bind.or((kind == "bind").then_some(false));
    let maps = IdMaps {
        users: ranges(&field("uidMappings"), mount.uid_mappings().as_deref())?,
        groups: ranges(&field("gidMappings"), mount.gid_mappings().as_deref())?,
    };
    let id_map = id_map(options.id_map, maps, container)
        .map_err(|reason| Error::invalid(field("uidMappings"), reason))?;
    let source = match bind {
        Some(recursive) => {
            if let Some((option, _)) = options.data.first() {
                let reason = "a bind mount has no options of a file system";
                return Err(Error::unsupported(format!("{} {option}", field("options")), reason));
            }
            let path = mount.source().clone().unwrap_or_default();
            if !path.is_absolute() {
                return Err(Error::invalid(field("source"), "a path of the guest is absolute"));
            }
            Source::Bind { path, recursive, id_map }
        }
        None if id_map.is_some() => {
            return Err(Error::unsupported(field("uidMappings"), "only bind mounts are id-mapped"));
        }
        None if kind.is_empty() || kind == "none" => {
            return Err(Error::invalid(field("type"), "there is none, and the mount is no bind mount"));
        }
        None => file_system(kind, mount.source().as_ref(), options.data, &options.attributes, namespaces),
    };
    Ok(Mount {
        target: mount.destination().clone(),
        source,
        attributes: options.attributes,
        recursive: options.recursive,
        propagation: options.propagation,
    })
}

/// The map of an id-mapped mount; where the mount has none of its own, the container's.
fn id_map(
    recursive: Option<bool>,
    own: IdMaps,
    container: Option<&IdMaps>,
) -> Result<Option<IdMap>, &'static str> {
    let has_own = own != IdMaps::default();
    if has_own && (own.users.is_empty() || own.groups.is_empty()) {
        return Err("users and groups are mapped together");
    }
    let recursive = match recursive {
        None if !has_own => return Ok(None),
        recursive => recursive.unwrap_or_default(),
    };
    let maps = match container {
        _ if has_own => own,
        Some(maps) => maps.clone(),
        None => return Err("neither the mount nor the container has a map"),
    };
    Ok(Some(IdMap { maps, recursive }))
}

/// Those whose "ro" is the mount's alone: the kernel makes them, and they are shared or filled first.
const OF_THE_KERNEL: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

fn file_system(
    kind: &str,
    source: Option<&PathBuf>,
    mut options: Vec<(String, Option<String>)>,
    attributes: &Attributes,
    namespaces: &Namespaces,
) -> Source {
    // Specifications say "cgroup" for whatever version there is.
    let kind = if kind == "cgroup" { "cgroup2" } else { kind };
    if kind == "cgroup2" && !namespaces.has(libc::CLONE_NEWCGROUP) {
        return Source::GuestCgroups;
    }
    if let Some(source) = source {
        options.insert(0, ("source".to_owned(), Some(source.display().to_string())));
    }
    if !OF_THE_KERNEL.contains(&kind) && attributes.set & libc::MOUNT_ATTR_RDONLY != 0 {
        options.push(("ro".to_owned(), None));
    }
    Source::New { kind: kind.to_owned(), options }
}

impl Options {
    /// Takes one more option. The error is why it is not supported; `None`: it cannot be meant.
    fn take(&mut self, option: &str) -> Result<(), Option<&'static str>> {
        if option.contains('\0') || option.is_empty() {
            return Err(None);
        }
        if let Some((set, clear)) = attribute(option) {
            self.attributes.add(set, clear);
            return Ok(());
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            self.recursive.add(set, clear);
            return Ok(());
        }
        if let Some(propagation) = propagation(option) {
            self.propagation = propagation;
            return Ok(());
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or_default()),
            "rbind" => self.bind = Some(true),
            "idmap" => self.id_map = Some(self.id_map.unwrap_or_default()),
            "ridmap" => self.id_map = Some(true),
            "defaults" => {}
            "remount" => return Err(Some("a container's mounts are new ones")),
            "tmpcopyup" => return Err(Some("a new tmpfs is empty")),
            option => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }
}

impl Attributes {
    fn add(&mut self, set: u64, clear: u64) {
        self.set = self.set & !clear | set;
        self.clear = self.clear & !set | clear;
    }
}

/// MOUNT_ATTR_* that an option sets, and that it clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        // The kernel wants all bits of access times cleared to set one of them; 0 is relatime.
        "noatime" => (libc::MOUNT_ATTR_NOATIME, ACCESS_TIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, ACCESS_TIME),
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (0, ACCESS_TIME),
        _ => return None,
    })
}

/// MS_* by an option's word, with MS_REC or without.
pub fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

/// What mount_setattr(2) knows of propagation, and whether it is for the mounts below, too.
pub fn split_propagation(propagation: u64) -> (u64, bool) {
    (propagation & !libc::MS_REC, propagation & libc::MS_REC != 0)
}

/// Of a device whose nodes every container has: its name in /dev, and its numbers.
pub const STANDARD_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container's /dev has: names, and what they lead to.
pub const STANDARD_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
