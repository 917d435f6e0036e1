//! The pod's control group on the host, cgroups(7) version 2: the VMM is in it, so that the pod is charged for all of its
//! memory and time. The limits of containers are the guest's to keep; those of the groups above hold for the whole.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::cpusets::CpuSets;

const ROOT: &str = "/sys/fs/cgroup";

/// What is accounted for.
const CONTROLLERS: [&str; 4] = ["+cpu", "+memory", "+pids", "+io"];

/// The group that a specification's `linux.cgroupsPath` means: a path, or `SLICE:PREFIX:NAME` of systemd. `None` for what
/// would lead elsewhere, and on hosts with version 1.
pub fn path(cgroups_path: &str) -> Option<PathBuf> {
    let root = Path::new(ROOT);
    root.join("cgroup.controllers").exists().then_some(())?;
    let below = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
        [slice, prefix, name] => slices(slice).join(format!("{prefix}-{name}.scope")),
        [path] => PathBuf::from(path.trim_start_matches('/')),
        _ => return None,
    };
    let plain = below.components().all(|component| matches!(component, Component::Normal(_)));
    (plain && below.components().next().is_some()).then(|| root.join(below))
}

/// Where systemd has a slice: `a-b.slice` is in `a.slice`, systemd.slice(5).
fn slices(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let dashes = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    dashes
        .filter_map(|end| name.get(..end))
        .filter(|part| !part.is_empty())
        .map(|part| format!("{part}.slice"))
        .collect()
}

/// Makes the group, and puts a process into it.
pub fn enter(group: &Path, pid: u32) -> io::Result<()> {
    fs::create_dir_all(group)?;
    for ancestor in ancestors(group) {
        for controller in CONTROLLERS {
            // What a host does not hand on is not accounted for here.
            fs::write(ancestor.join("cgroup.subtree_control"), controller).ok();
        }
    }
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Has what is in the group, and comes to it, use these processors and memory nodes of the host, as far as the groups above may.
pub fn confine(group: &Path, sets: &CpuSets) -> io::Result<()> {
    for ancestor in ancestors(group) {
        // Where it is not handed on the files are missing, below.
        fs::write(ancestor.join("cgroup.subtree_control"), "+cpuset").ok();
    }
    for (file, numbers) in [("cpuset.cpus", &sets.cpus), ("cpuset.mems", &sets.mems)] {
        let path = group.join(file);
        let list = numbers.list();
        // An empty line is no restriction, and a group that never had one need not be able to have one.
        if !list.is_empty() || path.exists() {
            fs::write(&path, format!("{list}\n"))
                .map_err(|error| io::Error::new(error.kind(), format!("{file} = {list}: {error}")))?;
        }
    }
    Ok(())
}

/// The groups above, the outermost first.
fn ancestors(group: &Path) -> Vec<&Path> {
    let mut above: Vec<_> =
        group.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(ROOT)).collect();
    above.reverse();
    above
}

/// Removes the group; nothing is in it any more. Those above are whoever's made them.
pub fn remove(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_root_and_slices_in_each_other() {
        assert_eq!(
            slices("kubepods-burstable-pod7.slice"),
            Path::new("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice")
        );
        if path("/x").is_none() {
            return; // version 1
        }
        assert_eq!(path("/default/c1"), Some("/sys/fs/cgroup/default/c1".into()));
        let scope = path("system.slice:docker:ab");
        assert_eq!(scope, Some("/sys/fs/cgroup/system.slice/docker-ab.scope".into()));
        for elsewhere in ["", "/", "../x", "/a/../../b", "a:b"] {
            assert_eq!(path(elsewhere), None, "{elsewhere:?}");
        }
    }
}
