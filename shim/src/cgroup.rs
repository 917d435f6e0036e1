//! The pod's control group on the host, cgroups(7) version 2: the VMM is in it, so that the pod is charged for all of its
//! memory and time. The limits of containers are the guest's to keep; those of the groups above hold for the whole.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

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
    let ancestors = group.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(ROOT));
    for ancestor in ancestors.collect::<Vec<_>>().into_iter().rev() {
        for controller in CONTROLLERS {
            // What a host does not hand on is not accounted for here.
            fs::write(ancestor.join("cgroup.subtree_control"), controller).ok();
        }
    }
    fs::write(group.join("cgroup.procs"), pid.to_string())
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
