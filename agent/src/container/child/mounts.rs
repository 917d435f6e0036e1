//! The mounts of a container (runtime specification: config.md "Mounts"; config-linux.md "Rootfs Mount Propagation",
//! "Masked Paths", "Readonly Paths").
//!
//! Each mount is made attached nowhere, given its attributes, and attached to a descriptor of its target, which was
//! resolved inside the container's root: no path is looked up twice, and none outside.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};

use super::Failure;
use super::root::Root;
use crate::container::plan::mounts::{Mount, Source, split_propagation};
use crate::container::sys::{self, Attributes};

const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

/// A path for a system call.
fn zero_ended(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::from)
}

/// What the agent's namespace has for a mount, as a tree that is attached nowhere; `None`: it is a new file system.
///
/// Done before the container's namespaces are made: its user namespace may not look up the source, or map its ids.
pub fn source(mount: &Mount, groups: &Path) -> Result<Option<OwnedFd>, Failure> {
    let (path, recursive, id_map) = match &mount.source {
        Source::New { .. } => return Ok(None),
        Source::GuestCgroups => (groups, false, None),
        Source::Bind { path, recursive, id_map } => (path.as_path(), *recursive, id_map.as_ref()),
    };
    let failed = || format!("mount {} on {}", path.display(), mount.target.display());
    let tree = zero_ended(path)
        .and_then(|path| sys::clone_tree(AT_FDCWD, &path, recursive))
        .map_err(Failure::at(failed()))?;
    if let Some(map) = id_map {
        let namespace = super::first::user_namespace(&map.maps).map_err(Failure::at(failed()))?;
        let mapped = Attributes { set: libc::MOUNT_ATTR_IDMAP, ..Attributes::default() };
        sys::set_attributes(tree.as_fd(), mapped, Some(namespace.as_fd()), map.recursive)
            .map_err(Failure::at(format!("{} with other owners (mounts[].uidMappings)", failed())))?;
    }
    set(&tree, mount.attributes, false).map_err(Failure::at(failed()))?;
    set(&tree, mount.recursive, true).map_err(Failure::at(failed()))?;
    Ok(Some(tree))
}

/// Changes attributes, if there is something to change.
fn set(tree: &OwnedFd, attributes: Attributes, recursive: bool) -> io::Result<()> {
    match attributes == Attributes::default() {
        true => Ok(()),
        false => sys::set_attributes(tree.as_fd(), attributes, None, recursive),
    }
}

/// Changes propagation (MS_*, with MS_REC or without), if there is something to change.
pub fn propagate(tree: BorrowedFd<'_>, propagation: u64) -> io::Result<()> {
    let (propagation, recursive) = split_propagation(propagation);
    match propagation {
        0 => Ok(()),
        _ => {
            let change = Attributes { propagation, ..Attributes::default() };
            sys::set_attributes(tree, change, None, recursive)
        }
    }
}

/// Mounts one of the container's mounts. `tree` is its [`source`].
///
/// What is given back is a mount that has to become read-only when everything in it is made.
pub fn mount(root: &Root, mount: &Mount, tree: Option<OwnedFd>) -> Result<Option<OwnedFd>, Failure> {
    let step = || format!("mount on {}", mount.target.display());
    let target = target(root, mount, tree.as_ref()).map_err(Failure::at(step()))?;
    let is_bind = tree.is_some();
    let filled_later = !is_bind && mount.target == Path::new("/dev");
    let tree = match (&mount.source, tree) {
        (Source::New { kind, options }, _) => {
            let mut attributes = mount.attributes.set;
            if filled_later {
                attributes &= !libc::MOUNT_ATTR_RDONLY;
            }
            new(kind, options, attributes).map_err(Failure::at(format!("{} ({kind})", step())))?
        }
        (_, Some(tree)) => tree,
        (_, None) => return Err(Failure::at(step())(Errno::EBADF)),
    };
    sys::attach(tree.as_fd(), target.as_fd()).map_err(Failure::at(step()))?;
    // What is mounted in the guest later is none of the container's business, unless that is asked for.
    let otherwise = if is_bind { libc::MS_PRIVATE | libc::MS_REC } else { 0 };
    let propagation = if mount.propagation == 0 { otherwise } else { mount.propagation };
    propagate(tree.as_fd(), propagation).map_err(Failure::at(format!("{} with propagation", step())))?;
    let read_only = mount.attributes.set & libc::MOUNT_ATTR_RDONLY != 0;
    Ok((filled_later && read_only).then_some(tree))
}

/// Makes a mount read-only.
pub fn make_read_only(tree: BorrowedFd<'_>) -> Result<(), Failure> {
    sys::set_attributes(tree, READ_ONLY, None, false).map_err(Failure::at("make a mount read-only"))
}

/// The file or directory that a mount goes to; made if it is missing.
fn target(root: &Root, mount: &Mount, tree: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let is_directory = match tree {
        Some(tree) => SFlag::from_bits_truncate(fstat(tree)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR,
        None => true,
    };
    let target = match is_directory {
        true => root.directory(&mount.target)?,
        false => root.file(&mount.target)?,
    };
    // A link of the image must not lead these elsewhere: what masks them goes by their names. Nor must a link lead
    // another mount into them, where it would hide what the kernel says.
    let is_kernels = match &mount.source {
        Source::New { kind, .. } => matches!(kind.as_str(), "proc" | "sysfs"),
        _ => false,
    };
    if is_kernels || matches!(fstatfs(&target)?.filesystem_type(), PROC_SUPER_MAGIC | SYSFS_MAGIC) {
        return root.open_without_links(&mount.target, OFlag::O_PATH);
    }
    Ok(target)
}

/// A new file system of this type, attached nowhere.
pub fn new(kind: &str, options: &[(String, Option<String>)], attributes: u64) -> io::Result<OwnedFd> {
    let zero_ended = |text: &str| CString::new(text).map_err(io::Error::from);
    let fs = sys::open_file_system(&zero_ended(kind)?)?;
    for (key, value) in options {
        let value = value.as_deref().map(zero_ended).transpose()?;
        sys::set_option(fs.as_fd(), &zero_ended(key)?, value.as_deref())?;
    }
    sys::create_file_system(fs.as_fd())?;
    sys::mount_file_system(fs.as_fd(), attributes)
}

/// Makes paths of the container unreadable: a directory is an empty one instead, all else /dev/null. What is not
/// there needs no mask.
pub fn mask(root: &Root, paths: &[impl AsRef<Path>]) -> Result<(), Failure> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths.iter().map(AsRef::as_ref) {
        let failed = || format!("mask {}", path.display());
        let Some(target) = existing(root, path).map_err(Failure::at(failed()))? else {
            continue;
        };
        let kind = SFlag::from_bits_truncate(fstat(&target).map_err(Failure::at(failed()))?.st_mode);
        let tree = match (kind & SFlag::S_IFMT == SFlag::S_IFDIR, &empty) {
            (false, _) => null_device(),
            (true, Some(empty)) => sys::clone_tree(empty.as_fd(), c"", false),
            (true, None) => new("tmpfs", &[], READ_ONLY.set),
        };
        let tree = tree.map_err(Failure::at(failed()))?;
        sys::attach(tree.as_fd(), target.as_fd()).map_err(Failure::at(failed()))?;
        if kind & SFlag::S_IFMT == SFlag::S_IFDIR {
            empty = Some(tree);
        }
    }
    Ok(())
}

/// The guest's /dev/null (never the container's, which may be anything), as a tree attached nowhere.
fn null_device() -> io::Result<OwnedFd> {
    sys::clone_tree(AT_FDCWD, c"/dev/null", false)
}

/// Makes paths of the container unwritable. What is not there needs nothing.
pub fn protect(root: &Root, paths: &[impl AsRef<Path>]) -> Result<(), Failure> {
    for path in paths.iter().map(AsRef::as_ref) {
        let failed = || format!("make {} read-only", path.display());
        let Some(target) = existing(root, path).map_err(Failure::at(failed()))? else {
            continue;
        };
        let tree = sys::clone_tree(target.as_fd(), c"", true).map_err(Failure::at(failed()))?;
        sys::set_attributes(tree.as_fd(), READ_ONLY, None, false).map_err(Failure::at(failed()))?;
        sys::attach(tree.as_fd(), target.as_fd()).map_err(Failure::at(failed()))?;
    }
    Ok(())
}

fn existing(root: &Root, path: &Path) -> io::Result<Option<OwnedFd>> {
    match root.open(path, OFlag::O_PATH) {
        Ok(file) => Ok(Some(file)),
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The container's root as a tree attached nowhere.
pub fn root_tree(path: &Path) -> Result<OwnedFd, Failure> {
    zero_ended(path)
        .and_then(|path| sys::clone_tree(AT_FDCWD, &path, true))
        .map_err(Failure::at(format!("take root.path {}", path.display())))
}

/// Mounts the container's root over the namespace's, cut off from the agent's mounts by `propagation`.
pub fn enter(tree: OwnedFd, propagation: u64) -> Result<Root, Failure> {
    let step = "mount the container's root";
    // Slaves still see what the guest mounts later, if the guest's mounts are shared.
    let cut = match split_propagation(propagation).0 {
        libc::MS_SLAVE | libc::MS_SHARED => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old = open("/", flags, Mode::empty()).map_err(Failure::at(step))?;
    propagate(old.as_fd(), cut | libc::MS_REC).map_err(Failure::at("cut off the agent's mounts"))?;
    sys::attach(tree.as_fd(), old.as_fd()).map_err(Failure::at(step))?;
    propagate(tree.as_fd(), cut | libc::MS_REC).map_err(Failure::at("cut off the agent's mounts"))?;
    Ok(Root::at(tree))
}

/// Makes the container's root this process's, and lets go of everything else.
pub fn pivot(root: &Root, propagation: u64) -> Result<(), Failure> {
    let step = "make the container's root the only one";
    nix::unistd::fchdir(root).map_err(Failure::at(step))?;
    sys::pivot_to_working_directory().map_err(Failure::at(step))?;
    // The old root lies on the new one now, and "." is what lies on top.
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).map_err(Failure::at(step))?;
    nix::unistd::chdir("/").map_err(Failure::at(step))?;
    if matches!(split_propagation(propagation).0, libc::MS_SHARED | libc::MS_UNBINDABLE) {
        propagate(root.as_fd(), propagation).map_err(Failure::at("set linux.rootfsPropagation"))?;
    }
    Ok(())
}
