//! Where a pod is on the host: a directory of its own, found again by namespace and pod alone, so that `delete` can
//! clean up when the shim is dead.
//!
//! ```text
//!  /run/rvm-shim/HASH/lock      held by the shim as long as it lives
//!                     vmm       the VMM's process and when it began
//!                     cgroup    the control group that the VMM is in
//!                     shim      containerd's namespace and the shim's socket
//!                     sockets/  all that the VMM has of this directory when the guest runs, but for `shown`:
//!                       vsock   its socket to the guest
//!                       vsock_N the shim's sockets, for what the guest connects to port N of the host
//!                     made/     a small tmpfs, in which the shim makes N/rootfs and N/mounts/M and mounts on them
//!                     shown/    the same, read-only, where those mounts appear: what the guest is shown
//!                     stage/    where a mount is made ready before it appears there: `dir` or `file`
//! ```
//!
//! `shown` is why a guest cannot lead the shim: where the shim makes directories the guest can change nothing. A path
//! of it is short: sockets have room for 107 bytes.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rvm_agent_proto::{NAMES_DATAGRAM_PORT, NAMES_STREAM_PORT};
use sha2::{Digest, Sha256};

use crate::attributes;
use crate::cgroup;
use crate::cpusets::CpuSets;
use crate::error::ShimError;
use crate::spec::Bind;

const ROOT: &str = "/run/rvm-shim";

/// Bytes of a directory's name that come of the hash.
const HASH_BYTES: usize = 10;

/// What `made` may take of the host's memory: a few directories a container.
const MADE_OPTIONS: &str = "mode=700,size=1m,nr_inodes=16k";

const NONE: Option<&str> = None;

/// How long a VMM that was killed may take to leave its control group, and how often that is looked at.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);
const CGROUP_PAUSE: Duration = Duration::from_millis(5);

/// The directory of a pod.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
}

/// The pod has a shim that lives, as long as this does.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

impl Place {
    /// Where the pod is, or would be.
    pub fn of(namespace: &str, pod: &str) -> Self {
        let hash = Sha256::digest(format!("{namespace}/{pod}"));
        let name: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Self { path: Path::new(ROOT).join(name) }
    }

    /// Makes the directory for the shim that calls, after cleaning up what a dead one left.
    pub fn make(&self) -> Result<Held, ShimError> {
        let made = |path: &Path| {
            let result = DirBuilder::new().recursive(true).mode(0o700).create(path);
            result.map_err(ShimError::path("make the directory", path))
        };
        made(&self.path)?;
        let lock = self.lock()?.ok_or_else(|| ShimError::Exists {
            what: "shim for the pod in",
            id: self.path.display().to_string(),
        })?;
        self.clean()?;
        for directory in [self.made(), self.shown(), self.stage(), self.sockets()] {
            made(&directory)?;
        }
        self.mount_all()?;
        made(&self.stage().join("dir"))?;
        let file = self.stage().join("file");
        File::create(&file).map_err(ShimError::path("make the file", file))?;
        Ok(Held { _lock: lock })
    }

    fn mount_all(&self) -> Result<(), ShimError> {
        let (made, shown, stage) = (self.made(), self.shown(), self.stage());
        let failed = |path: &Path| ShimError::path::<Errno>("mount", path.to_owned());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        for tmpfs in [&made, &stage] {
            mount(Some("rvm"), tmpfs, Some("tmpfs"), flags, Some(MADE_OPTIONS)).map_err(failed(tmpfs))?;
            mount(NONE, tmpfs, NONE, MsFlags::MS_PRIVATE, NONE).map_err(failed(tmpfs))?;
        }
        // What is mounted in one appears in the other, and nowhere else.
        mount(NONE, &made, NONE, MsFlags::MS_SHARED, NONE).map_err(failed(&made))?;
        mount(Some(&made), &shown, NONE, MsFlags::MS_BIND, NONE).map_err(failed(&shown))?;
        mount(NONE, &shown, NONE, MsFlags::MS_SLAVE, NONE).map_err(failed(&shown))?;
        let read_only = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, &shown, NONE, read_only, NONE).map_err(failed(&shown))
    }

    /// The pod's lock; `None` while its shim lives.
    pub fn lock(&self) -> Result<Option<File>, ShimError> {
        let path = self.path.join("lock");
        let lock = File::create(&path).map_err(ShimError::path("make the file", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(ShimError::path("lock", path)(error)),
        }
    }

    /// Whether there is anything of the pod.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Where the shim makes what the guest is shown.
    pub fn made(&self) -> PathBuf {
        self.path.join("made")
    }

    /// What the guest is shown.
    pub fn shown(&self) -> PathBuf {
        self.path.join("shown")
    }

    /// Where mounts are made ready.
    fn stage(&self) -> PathBuf {
        self.path.join("stage")
    }

    /// Has what is bound appear at `target`, a file or directory below [`Place::made`], to the shim and to the guest at once
    /// and with all of its restrictions, which are those of everything mounted below as well. What is mounted below the
    /// source later appears there too where the bind follows, without the restrictions: these are the guest's to keep then.
    /// Nothing goes the other way.
    pub fn show(&self, bind: &Bind, target: &Path) -> Result<(), ShimError> {
        let source = &bind.source;
        let failed = || ShimError::path::<Errno>("share", source.to_owned());
        let stage = self.stage().join(if source.is_dir() { "dir" } else { "file" });
        let all = if bind.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        mount(Some(source), &stage, NONE, MsFlags::MS_BIND | all, NONE).map_err(failed())?;
        let propagation = if bind.follows { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
        // Restrictions do not follow to where a mount has appeared, so they come first.
        let shown = attributes::restrict(&stage, bind.read_only, propagation)
            .map_err(ShimError::path("share", source))
            .and_then(|()| {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some(&stage), target, NONE, flags, NONE).map_err(failed())
            });
        unmount(&stage)?;
        shown
    }

    /// What the VMM and the shim have of sockets.
    fn sockets(&self) -> PathBuf {
        self.path.join("sockets")
    }

    /// The VMM's socket to the guest.
    pub fn vsock(&self) -> PathBuf {
        self.sockets().join("vsock")
    }

    /// Where the VMM takes what the guest connects to this port of the host.
    pub fn port(&self, port: u32) -> PathBuf {
        self.sockets().join(format!("vsock_{port}"))
    }

    /// Writes down which process the VMM is.
    pub fn set_vmm(&self, pid: u32) -> Result<(), ShimError> {
        let path = self.path.join("vmm");
        let began = began(pid).map_err(ShimError::host("find out when the VMM began"))?;
        fs::write(&path, format!("{pid} {began}")).map_err(ShimError::path("write", path))
    }

    /// Puts the VMM into its control group, and writes down which that is.
    pub fn enter_cgroup(&self, group: &Path, pid: u32) -> Result<(), ShimError> {
        let path = self.path.join("cgroup");
        fs::write(&path, group.as_os_str().as_encoded_bytes()).map_err(ShimError::path("write", path))?;
        cgroup::enter(group, pid).map_err(ShimError::path("put the VMM into the control group", group))
    }

    /// Has the VMM use these processors and memory nodes of the host, by its control group.
    pub fn confine(&self, pid: u32, sets: &CpuSets) -> Result<(), ShimError> {
        let path = self.path.join("cgroup");
        let group = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ShimError::Unsupported {
                    what: "sets of processors and memory nodes (linux.resources.cpu.cpus, mems) here"
                        .to_owned(),
                    reason: "the pod has no control group of version 2 that would keep its machine to them; leave them out",
                });
            }
            read => PathBuf::from(read.map_err(ShimError::path("read", path))?),
        };
        // It may not be in there yet: that is no more than a warning where there is no set.
        cgroup::enter(&group, pid)
            .and_then(|()| cgroup::confine(&group, sets))
            .map_err(ShimError::path("keep the VMM to its processors and memory nodes by", group))
    }

    /// Removes the control group that was written down; the VMM has to be gone, which after its end takes a moment.
    fn remove_cgroup(&self) -> Result<(), ShimError> {
        let Ok(group) = fs::read_to_string(self.path.join("cgroup")) else { return Ok(()) };
        let begin = Instant::now();
        loop {
            match cgroup::remove(Path::new(&group)) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && begin.elapsed() < CGROUP_PATIENCE =>
                {
                    std::thread::sleep(CGROUP_PAUSE);
                }
                removed => return removed.map_err(ShimError::path("remove the control group", group)),
            }
        }
    }

    /// Writes down where the pod's shim listens, for containers of the same containerd namespace that are to share the
    /// pod's network.
    pub fn set_shim(&self, namespace: &str, socket: &Path) -> Result<(), ShimError> {
        let path = self.path.join("shim");
        let text = format!("{namespace}\n{}", socket.display());
        fs::write(&path, text).map_err(ShimError::path("write", path))
    }

    /// Where the shim listens whose pod has this network namespace, if there is one.
    pub fn shim_in_network(namespace: &str, network: &Path) -> Option<PathBuf> {
        let wanted = network.metadata().ok()?;
        let is_in = |place: &Path| {
            let text = fs::read_to_string(place.join("vmm")).ok()?;
            let (pid, _) = text.split_once(' ')?;
            let own = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
            ((own.st_dev(), own.st_ino()) == (wanted.st_dev(), wanted.st_ino())).then_some(())
        };
        let places = fs::read_dir(ROOT).ok()?.flatten().map(|entry| entry.path());
        let text = places.into_iter().find_map(|place| {
            is_in(&place)?;
            fs::read_to_string(place.join("shim")).ok()
        })?;
        let (of, socket) = text.split_once('\n')?;
        (of == namespace).then(|| PathBuf::from(socket))
    }

    /// Removes everything of the pod. The caller has the lock, or nobody has.
    pub fn remove(&self) -> Result<(), ShimError> {
        self.clean()?;
        let lock = self.path.join("lock");
        gone(fs::remove_file(&lock)).map_err(ShimError::path("remove", &lock))?;
        gone(fs::remove_dir(&self.path)).map_err(ShimError::path("remove", &self.path))
    }

    /// Ends the VMM, unmounts, and removes all but the lock. Directories are removed only when they are empty: what is
    /// mounted in them is not ours to remove.
    fn clean(&self) -> Result<(), ShimError> {
        self.kill_vmm();
        self.remove_cgroup()?;
        for directory in [self.shown(), self.made(), self.stage()] {
            unmount(&directory)?;
            gone(fs::remove_dir(&directory)).map_err(ShimError::path("remove", directory))?;
        }
        let sockets = [self.vsock(), self.port(NAMES_DATAGRAM_PORT), self.port(NAMES_STREAM_PORT)];
        for file in ["vmm", "cgroup", "shim"].map(|name| self.path.join(name)).into_iter().chain(sockets) {
            gone(fs::remove_file(&file)).map_err(ShimError::path("remove", file))?;
        }
        let sockets = self.sockets();
        gone(fs::remove_dir(&sockets)).map_err(ShimError::path("remove", sockets))
    }

    /// A VMM ends by itself with the shim that started it; this is for one that hangs.
    fn kill_vmm(&self) {
        let Ok(text) = fs::read_to_string(self.path.join("vmm")) else { return };
        let Some((pid, began_then)) = text.split_once(' ') else { return };
        let Ok(pid) = pid.parse::<u32>() else { return };
        // Its number may be another's by now.
        if began(pid).is_ok_and(|began| began == began_then)
            && let Ok(pid) = i32::try_from(pid)
        {
            // Gone meanwhile is as good.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// When a process began, in the kernel's ticks: field 22 of /proc/PID/stat, counted from the end of the name in
/// parentheses, which may have anything in it.
fn began(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let began = fields.split_whitespace().nth(19);
    began.map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Unmounts everything that is mounted at `path`, however often and however busy.
pub fn unmount(path: &Path) -> Result<(), ShimError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or there is no such path.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(ShimError::path("unmount", path)(error)),
        }
    }
}

/// What is not there need not be removed.
pub fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests;
