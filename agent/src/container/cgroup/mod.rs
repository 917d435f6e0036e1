//! The control group of a container (cgroup v2; Linux: Documentation/admin-guide/cgroup-v2.rst).
//!
//! Each container has one group, named as the container, below the root. The agent is in the root group itself, which
//! alone may have both processes and groups with controllers. `linux.cgroupsPath` names a place in the host's
//! hierarchy, where the VM lives; in the guest it means nothing.

pub mod devices;
pub mod limits;
pub mod stats;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::PollFlags;
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxResources;

use super::{Error, sys};

/// Those whose files a container's group needs; what the kernel does not have is left out.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];
/// How long the kernel has to freeze or end every process of a group.
const PATIENCE: Duration = Duration::from_secs(10);

/// A group.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    directory: OwnedFd,
    /// The program that is asked about devices; `None`: all are allowed.
    devices: Option<OwnedFd>,
}

impl Group {
    /// Makes the group `name` below `root`, with the limits of `resources`.
    pub fn make(root: &Path, name: &str, resources: &LinuxResources) -> Result<Self, Error> {
        let settings = limits::settings(resources)?;
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        enable_controllers(root).map_err(Error::at("enable the controllers of cgroup v2"))?;
        let path = root.join(name);
        let failed = |path: &Path| Error::at(format!("make the control group {}", path.display()));
        match fs::create_dir(&path) {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists(name.to_owned())),
            result => result.map_err(failed(&path))?,
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&path, flags, Mode::empty()).map_err(|err| failed(&path)(err.into()))?;
        let mut group = Self { path, directory, devices: None };
        let set = group.set(&settings).and_then(|()| group.allow_devices(&rules));
        match set {
            Ok(()) => Ok(group),
            Err(err) => {
                // The error that made it useless is the one to tell.
                let _ = fs::remove_dir(&group.path);
                Err(err)
            }
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes limits; what `resources` leaves out stays.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        let settings = limits::settings(resources)?;
        let rules = resources.devices().as_deref().map(devices::rules).transpose()?;
        self.set(&settings)?;
        match rules {
            Some(rules) => self.allow_devices(&rules),
            None => Ok(()),
        }
    }

    fn set(&self, settings: &[limits::Setting]) -> Result<(), Error> {
        for limits::Setting { file, value, field } in settings {
            fs::write(self.path.join(file), value)
                .map_err(Error::at(format!("set {field}: {value} for {}", self.path.join(file).display())))?;
        }
        Ok(())
    }

    fn allow_devices(&mut self, rules: &devices::Rules) -> Result<(), Error> {
        let attach = || {
            let program = sys::load_device_program(&devices::compile(rules))?;
            let before = self.devices.as_ref().map(AsFd::as_fd);
            sys::attach_device_program(self.directory.as_fd(), program.as_fd(), before)?;
            Ok::<_, io::Error>(program)
        };
        self.devices = Some(attach().map_err(Error::at("set linux.resources.devices"))?);
        Ok(())
    }

    /// Stops every process of it, or lets them go on; returns when that is done.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let step = if frozen { "freeze" } else { "thaw" };
        let failed = || Error::at(format!("{step} {}", self.path.display()));
        let value = if frozen { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), value).map_err(failed())?;
        self.wait_for_event("frozen", value).map_err(failed())
    }

    /// Ends every process of it, also those that are born meanwhile; returns when all are gone.
    pub fn kill(&self) -> Result<(), Error> {
        let failed = || Error::at(format!("end the processes in {}", self.path.display()));
        fs::write(self.path.join("cgroup.kill"), "1").map_err(failed())?;
        self.wait_for_event("populated", "0").map_err(failed())
    }

    /// Waits until cgroup.events has `key value`.
    fn wait_for_event(&self, key: &str, value: &str) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut events = File::open(self.path.join("cgroup.events"))?;
        loop {
            // What changes after this read is told by the poll.
            let mut text = String::new();
            events.seek(SeekFrom::Start(0))?;
            events.read_to_string(&mut text)?;
            if stats::value(&text, key) == Some(value) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !sys::wait_for(&events, PollFlags::POLLPRI, left)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    /// The processes in it and in the groups that the container made below it.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        let failed = || Error::at(format!("list the processes in {}", self.path.display()));
        let mut processes = Vec::new();
        for group in tree(&self.path).map_err(failed())? {
            match fs::read_to_string(group.join("cgroup.procs")) {
                // The container removed it meanwhile, or it is threaded: its processes stand above it.
                Err(err)
                    if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {
                }
                text => processes
                    .extend(text.map_err(failed())?.lines().filter_map(|pid| pid.parse::<u32>().ok())),
            }
        }
        Ok(processes)
    }

    /// Its memory.events, to be polled: POLLPRI says that it changed.
    pub fn memory_events(&self) -> Result<OwnedFd, Error> {
        let path = self.path.join("memory.events");
        let file = File::open(&path).map_err(Error::at(format!("open {}", path.display())))?;
        Ok(file.into())
    }

    /// Removes it with the groups that the container made below it. No process may be left.
    pub fn remove(&self) -> Result<(), Error> {
        let failed = || Error::at(format!("remove the control group {}", self.path.display()));
        for group in tree(&self.path).map_err(failed())?.iter().rev() {
            match fs::remove_dir(group) {
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                result => result.map_err(failed())?,
            }
        }
        Ok(())
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The group and all below it, each after the one that it is in.
fn tree(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut groups = vec![group.to_owned()];
    let mut next = 0;
    while let Some(group) = groups.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&group) {
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                groups.push(entry.path());
            }
        }
    }
    Ok(groups)
}

/// Has the groups below `root` the files of the controllers.
fn enable_controllers(root: &Path) -> io::Result<()> {
    let control = root.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control)?;
    let there = fs::read_to_string(root.join("cgroup.controllers"))?;
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let missing = CONTROLLERS.iter().filter(|name| has(&there, name) && !has(&enabled, name));
    let missing: Vec<_> = missing.map(|name| format!("+{name}")).collect();
    if missing.is_empty() { Ok(()) } else { fs::write(control, missing.join(" ")) }
}
