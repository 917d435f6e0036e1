//! What the runtime makes in a container's file system: devices (config-linux.md, "Default Devices" and "Devices"),
//! links in /dev, and sysctls.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat, write};

use super::Failure;
use super::mounts;
use super::root::Root;
use crate::container::plan::Device;
use crate::container::plan::mounts::{STANDARD_DEVICES, STANDARD_LINKS};
use crate::container::sys;

/// Makes the devices of every container and those of its specification. In a user namespace the kernel makes no
/// devices: the guest's own are mounted instead (`from_guest`).
pub fn devices(root: &Root, devices: &[Device], from_guest: bool) -> Result<(), Failure> {
    let standard = STANDARD_DEVICES.iter().map(|&(name, major, minor)| Device {
        path: Path::new("/dev").join(name),
        kind: libc::S_IFCHR,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    for device in standard.chain(devices.iter().cloned()) {
        let made = if from_guest { borrow(root, &device) } else { make(root, &device) };
        made.map_err(Failure::at(format!("make the device {}", device.path.display())))?;
    }
    Ok(())
}

fn make(root: &Root, device: &Device) -> io::Result<()> {
    let (parent, name) = root.parent(&device.path)?;
    let kind = SFlag::from_bits_retain(device.kind);
    let mode = Mode::from_bits_retain(device.mode);
    let number = makedev(device.major.into(), device.minor.into());
    // The umask is empty here.
    match mknodat(&parent, name, kind, mode, number) {
        // The image, or the specification, has it already.
        Err(Errno::EEXIST) => {
            let there = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let same =
                SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == kind && there.st_rdev == number;
            if !same {
                return Err(Errno::EEXIST.into());
            }
        }
        result => result?,
    }
    if (device.uid, device.gid) != (0, 0) {
        let owner = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
        fchownat(&parent, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Mounts the guest's device of the same path.
fn borrow(root: &Root, device: &Device) -> io::Result<()> {
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let guests = openat2(AT_FDCWD, &device.path, how)?;
    let there = fstat(&guests)?;
    let kind = SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT;
    let number = makedev(device.major.into(), device.minor.into());
    if kind != SFlag::from_bits_retain(device.kind) || there.st_rdev != number {
        return Err(Errno::ENODEV.into());
    }
    let tree = sys::clone_tree(guests.as_fd(), c"", false)?;
    sys::attach(tree.as_fd(), root.file(&device.path)?.as_fd())
}

/// Makes the links that every /dev has.
pub fn links(root: &Root) -> Result<(), Failure> {
    for (name, to) in STANDARD_LINKS {
        let path = Path::new("/dev").join(name);
        let made = root.parent(&path).and_then(|(parent, name)| match symlinkat(to, &parent, name) {
            // The image's own.
            Err(Errno::EEXIST) => Ok(()),
            result => Ok(result?),
        });
        made.map_err(Failure::at(format!("make the link {}", path.display())))?;
    }
    Ok(())
}

/// Sets sysctls, in a procfs that only this process has: the container's /proc may be anything.
pub fn sysctls(sysctls: &[(String, String)]) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = mounts::new("proc", &[], 0).map_err(Failure::at("open a procfs of its own"))?;
    for (name, value) in sysctls {
        let set = open_sysctl(&proc, name).and_then(|file| Ok(write(&file, value.as_bytes())?));
        match set.map_err(Failure::at(format!("set linux.sysctl[{name}] to {value}")))? {
            written if written == value.len() => {}
            _ => return Err(Failure::at(format!("set linux.sysctl[{name}]: too long"))(Errno::E2BIG)),
        }
    }
    Ok(())
}

fn open_sysctl(proc: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    // As sysctl(8): where there are slashes, dots are part of a name.
    let separator = if name.contains('/') { '/' } else { '.' };
    let mut path = PathBuf::from("sys");
    path.extend(name.split(separator));
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(resolve);
    Ok(openat2(proc, &path, how)?)
}
