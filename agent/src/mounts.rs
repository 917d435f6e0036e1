//! The file systems every Linux program expects, and their end.
//!
//! Not here: disks. Whoever needs one mounts it; what is still mounted at the end is unmounted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot};

use crate::console::say;

/// One line of the table of mounts.
struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const NO_DEVICES: MsFlags = PLAIN.union(MsFlags::MS_NODEV);
const SCRATCH: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In the order of mounting: a mount point that lies in another file system comes after it.
const MOUNTS: [Mount; 8] = [
    row("devtmpfs", "/dev", PLAIN, "mode=0755"),
    row("proc", "/proc", NO_DEVICES, ""),
    row("sysfs", "/sys", NO_DEVICES, ""),
    row("cgroup2", "/sys/fs/cgroup", NO_DEVICES, "nsdelegate"),
    row("devpts", "/dev/pts", PLAIN, "gid=5,mode=0620,ptmxmode=0666"),
    row("tmpfs", "/dev/shm", NO_DEVICES, "mode=1777"),
    row("tmpfs", "/run", SCRATCH, "mode=0755"),
    row("tmpfs", "/tmp", SCRATCH, "mode=1777"),
];

/// The kernel's first root, where it has no tmpfs for it (linux/magic.h).
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Names in /dev that programs expect and the kernel does not make.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

const fn row(kind: &'static str, at: &'static str, flags: MsFlags, options: &'static str) -> Mount {
    Mount { kind, at, flags, options }
}

/// Makes the root a mount that can be exchanged, if it is the one that the kernel unpacked the image to: by
/// pivot_root(2) a container gets a root under which nothing is left, and the kernel's first root has none below
/// it to be exchanged with. The same files are mounted over it, and become the root.
fn cover_root() -> nix::Result<()> {
    if !matches!(statfs("/")?.filesystem_type(), RAMFS_MAGIC | TMPFS_MAGIC) {
        return Ok(());
    }
    // Any directory will do to mount it first.
    mount(Some("/"), "/dev", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    chdir("/dev")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")
}

/// Mounts the whole table. What cannot be mounted is said on the console, and left out.
pub fn mount_all() {
    if let Err(err) = cover_root() {
        say(&format!("cannot make the root one that containers can leave: {err}"));
    }
    for row in &MOUNTS {
        if let Err(err) = mount_row(row) {
            say(&format!("cannot mount {} on {}: {err}", row.kind, row.at));
        }
    }
    for (target, name) in DEV_LINKS {
        if let Err(err) = symlink(target, name)
            && err.kind() != std::io::ErrorKind::AlreadyExists
        {
            say(&format!("cannot make {name}: {err}"));
        }
    }
}

fn mount_row(row: &Mount) -> std::io::Result<()> {
    let attempt = || mount(Some(row.kind), row.at, Some(row.kind), row.flags, Some(row.options));
    let result = match attempt() {
        Err(Errno::ENOENT) => {
            fs::create_dir_all(row.at)?;
            attempt()
        }
        result => result,
    };
    match result {
        // The kernel mounted it itself (devtmpfs, by CONFIG_DEVTMPFS_MOUNT).
        Err(Errno::EBUSY) => Ok(()),
        result => Ok(result?),
    }
}

/// Unmounts what commands mounted, the last first; makes read-only what is too busy to unmount.
pub fn unmount_all() {
    let Ok(table) = fs::read_to_string("/proc/self/mounts") else {
        return;
    };
    for point in to_unmount(&table) {
        if umount2(&point, MntFlags::empty()).is_ok() {
            continue;
        }
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(err) = mount(None::<&str>, &point, None::<&str>, read_only, None::<&str>) {
            say(&format!("cannot unmount {}: {err}", point.display()));
        }
    }
}

/// The mount points in a table like /proc/mounts that are not the agent's own, the last mounted first.
fn to_unmount(table: &str) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(unescape)
        .filter(|point| point != Path::new("/"))
        .filter(|point| MOUNTS.iter().all(|row| point != Path::new(row.at)))
        .collect();
    points.reverse();
    points
}

/// Undoes the octal escapes (`\040` for a blank) of /proc/mounts.
fn unescape(field: &str) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let escaped = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        match escaped {
            Some(byte) if first == b'\\' => {
                path.push(byte);
                rest = &tail[3..];
            }
            _ => {
                path.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::{MOUNTS, to_unmount};
    use std::path::{Path, PathBuf};

    #[test]
    fn a_mount_point_comes_after_the_file_system_it_lies_in() {
        for (n, row) in MOUNTS.iter().enumerate() {
            let later = &MOUNTS[n..];
            let parents = Path::new(row.at).ancestors().skip(1);
            for parent in parents {
                assert!(later.iter().all(|other| Path::new(other.at) != parent), "{}", row.at);
            }
        }
    }

    #[test]
    fn only_what_commands_mounted_is_unmounted_last_first() {
        let table = "rootfs / rootfs rw 0 0\n\
            devtmpfs /dev devtmpfs rw 0 0\n\
            /dev/vda /mnt ext4 rw 0 0\n\
            overlay /mnt/a\\040b\\134 overlay rw 0 0\n\
            tmpfs /tmp tmpfs rw 0 0\n";
        let expected: Vec<PathBuf> = vec!["/mnt/a b\\".into(), "/mnt".into()];
        assert_eq!(to_unmount(table), expected);
    }

    #[test]
    fn a_table_cut_short_is_read_as_far_as_it_goes() {
        let expected: Vec<PathBuf> = vec!["/c\\04".into(), "/a".into()];
        assert_eq!(to_unmount("x /a\n\nrootfs\ny /c\\04"), expected);
    }
}
