//! The files of a container on the host: its root file system, mounted in the bundle, and what is bound into it; both
//! then shown to the guest, in the pod's [`Place`]. A root file system of images is the guest's to mount
//! ([`crate::images`]).

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use nix::mount::{MsFlags, mount};

use crate::error::ShimError;
use crate::place::{Place, unmount};
use crate::spec::Bind;

/// Most bytes of a file system's own options: what mount(2) copies, a page with its final zero.
const MAX_OPTIONS: usize = 4095;

const NONE: Option<&str> = None;

/// What is mounted for one container. It does not unmount by itself: see [`Files::unmount`].
#[derive(Debug)]
pub struct Files {
    /// The container's directory in the place.
    directory: PathBuf,
    place: Place,
    /// Where containerd's mounts are in the bundle; `None`: there are none of ours.
    bundle_root: Option<PathBuf>,
}

/// Where a container's root file system comes from.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// Mounts to be carried out in the bundle.
    Mounts(&'a [Mount]),
    /// It is there, mounted by whoever called.
    At(&'a Path),
    /// The guest mounts it.
    InGuest,
}

/// The kinds of directories of hosts that have nothing in them that another kernel could use.
const OF_THE_HOST: [&str; 3] = ["/dev", "/proc", "/sys"];

impl Files {
    /// Mounts the root file system, if it is the host's to mount, and `binds`.
    pub fn mount(
        place: &Place,
        number: u32,
        bundle: &Path,
        root: Root<'_>,
        binds: &[Bind],
    ) -> Result<Self, ShimError> {
        let bundle_root = matches!(root, Root::Mounts(_)).then(|| bundle.join("rootfs"));
        let directory = place.made().join(number.to_string());
        let files = Self { directory, place: place.clone(), bundle_root };
        let mounted = files.mount_all(root, binds);
        if let Err(error) = mounted {
            // The first error is the one to tell.
            files.unmount().ok();
            return Err(error);
        }
        Ok(files)
    }

    fn mount_all(&self, root: Root<'_>, binds: &[Bind]) -> Result<(), ShimError> {
        let target = self.directory.join("rootfs");
        let bound = self.directory.join("mounts");
        for directory in [&target, &bound] {
            fs::create_dir_all(directory).map_err(ShimError::path("make the directory", directory))?;
        }
        if let (Root::Mounts(mounts), Some(root)) = (root, &self.bundle_root) {
            fs::create_dir_all(root).map_err(ShimError::path("make the directory", root))?;
            mounts.iter().try_for_each(|mount| mount_one(mount, root))?;
        }
        match (root, &self.bundle_root) {
            (Root::At(root), _) => self.place.show(&Bind::root(root), &target)?,
            (_, Some(root)) => self.place.show(&Bind::root(root), &target)?,
            (_, None) => {}
        }
        for (number, wanted) in binds.iter().enumerate() {
            check_source(&wanted.source)?;
            let target = bound.join(number.to_string());
            let made = match wanted.source.is_dir() {
                true => fs::create_dir(&target),
                false => File::create(&target).map(drop),
            };
            made.map_err(ShimError::path("make", &target))?;
            self.place.show(wanted, &target)?;
        }
        Ok(())
    }

    /// Unmounts everything. What the guest still has open goes when it lets go of it, or ends.
    pub fn unmount(&self) -> Result<(), ShimError> {
        let bound = self.directory.join("mounts");
        for entry in fs::read_dir(&bound).into_iter().flatten().flatten() {
            unmount(&entry.path())?;
        }
        unmount(&self.directory.join("rootfs"))?;
        if let Some(root) = &self.bundle_root {
            unmount(root)?;
        }
        // The directories are on the place's tmpfs: empty, few, and gone with it.
        Ok(())
    }
}

/// What a bind mount may show to the guest.
fn check_source(source: &Path) -> Result<(), ShimError> {
    let unsupported = |reason| {
        Err(ShimError::Unsupported { what: format!("the bind mount of '{}'", source.display()), reason })
    };
    let kind = fs::metadata(source).map_err(ShimError::path("share", source))?.file_type();
    let resolved = source.canonicalize().map_err(ShimError::path("share", source))?;
    if kind.is_socket() {
        return unsupported("a socket of the host does not work in another kernel");
    }
    if !kind.is_dir() && !kind.is_file() {
        return unsupported("only directories and regular files can be shared with a virtual machine");
    }
    if !resolved.starts_with("/dev/shm")
        && OF_THE_HOST.iter().any(|directory| resolved.starts_with(directory))
    {
        return unsupported("it is of the host's kernel; the virtual machine has a kernel of its own");
    }
    Ok(())
}

/// Carries out a mount of containerd's.
fn mount_one(wanted: &Mount, root: &Path) -> Result<(), ShimError> {
    let unsupported =
        |what: String, reason| Err(ShimError::Unsupported { what: format!("the mount with {what}"), reason });
    if !wanted.target.is_empty() {
        return unsupported(format!("the target '{}'", wanted.target), "a root file system is one tree");
    }
    let Options { flags, data } = Options::parse(&wanted.options);
    if data.len() > MAX_OPTIONS {
        return unsupported(
            format!("options of {} bytes", data.len()),
            "the image has too many layers for one mount(2)",
        );
    }
    let kind = (!flags.contains(MsFlags::MS_BIND)).then_some(wanted.type_.as_str());
    let data = (!data.is_empty()).then_some(data.as_str());
    let failed = || ShimError::path("mount the root file system", &wanted.source);
    mount(Some(wanted.source.as_str()), root, kind, flags, data).map_err(failed())?;
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // Binding takes no other flag.
        let again = (flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
        mount(NONE, root, NONE, again, NONE).map_err(failed())?;
    }
    Ok(())
}

/// Options of mount(8), as mount(2) takes them.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MsFlags,
    /// Those of the file system itself.
    data: String,
}

impl Options {
    fn parse(options: &[String]) -> Self {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in options {
            match option.as_str() {
                "rw" => flags -= MsFlags::MS_RDONLY,
                "ro" => flags |= MsFlags::MS_RDONLY,
                "bind" => flags |= MsFlags::MS_BIND,
                "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                "nosuid" => flags |= MsFlags::MS_NOSUID,
                "nodev" => flags |= MsFlags::MS_NODEV,
                "noexec" => flags |= MsFlags::MS_NOEXEC,
                "noatime" => flags |= MsFlags::MS_NOATIME,
                "relatime" => flags |= MsFlags::MS_RELATIME,
                "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
                "suid" | "dev" | "exec" | "atime" | "async" | "defaults" => {}
                other => data.push(other),
            }
        }
        Self { flags, data: data.join(",") }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let overlay = options(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b", "nosuid"]);
        let data = "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b".to_owned();
        assert_eq!(overlay, Options { flags: MsFlags::MS_NOSUID, data });
        let native = options(&["rbind", "ro"]);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY;
        assert_eq!(native, Options { flags, data: String::new() });
    }

    #[test]
    fn what_another_kernel_cannot_use_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (source, words) in [
            (socket.as_path(), "a socket of the host"),
            (Path::new("/dev/null"), "only directories and regular files"),
            (Path::new("/proc/self"), "the host's kernel"),
            (Path::new("/sys"), "the host's kernel"),
        ] {
            let error = check_source(source).unwrap_err().to_string();
            assert!(error.contains(&*source.to_string_lossy()) && error.contains(words), "{error}");
        }
        check_source(directory.path()).unwrap();
        assert!(check_source(Path::new("/nowhere")).is_err());
    }
}
