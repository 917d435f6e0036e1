//! `rvm install`: puts rvm's files where containerd and Docker find them, and tells both of the runtime.
//!
//! What is to be done is found out first, as a list of steps, each of which says what it does; then it is done, or with
//! `--dry-run` only said. Nothing is restarted, and what others have in their configuration stays.
//!
//! ```text
//!  /usr/local/lib/rvm/   rvm, the shim, guest/           /usr/local/bin/   links to both programs
//!  /etc/containerd/      conf.d/rvm.toml, imported       /etc/docker/      daemon.json: runtimes.rvm
//! ```

mod containerd;
mod docker;
mod step;

use std::io;
use std::path::{Path, PathBuf};

pub use step::Step;

/// Where programs and guest go.
const LIBRARY: &str = "/usr/local/lib/rvm";
/// Where a package has them: then they are in place.
const PACKAGED: &str = "/usr/lib/rvm";
/// Where the links are by which programs are found.
const PROGRAMS: &str = "/usr/local/bin";
/// The programs.
const NAMES: [&str; 2] = ["rvm", "containerd-shim-rvm-v2"];
/// The guest's files, in `guest/` beside the programs.
const GUEST: [&str; 3] = ["vmlinux", "initramfs.cpio", "initramfs-agent.cpio"];

/// The runtime as containerd knows it.
const RUNTIME: &str = "io.containerd.rvm.v2";
/// The runtime's short name, in pods and for `docker run --runtime`.
const NAME: &str = "rvm";

/// Why rvm cannot be installed, or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file of rvm's own is not where it should be.
    #[error("cannot find '{}', which belongs to rvm: run `rvm install` from a directory that has all of it, as \
             `make build` leaves target/release", .0.display())]
    Missing(PathBuf),
    /// Somebody else's configuration cannot be read.
    #[error("cannot read '{}': {reason}; correct it, and try again", .path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refused.
    #[error("cannot {attempt} '{}'", .path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl InstallError {
    fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { attempt, path, source }
    }
}

/// The host's file system, or a directory that is to become one (`--root`).
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Everything is put below this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Where an absolute path is.
    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// What the file says; `None`: there is none.
    fn read(&self, path: &str) -> Result<Option<String>, InstallError> {
        let path = self.at(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(InstallError::io("read", &path)(error)),
        }
    }
}

/// The steps of an installation of the files in `source`.
pub fn install(root: &Root, source: &Path) -> Result<Vec<Step>, InstallError> {
    let mut steps = if source == root.at(PACKAGED) { Vec::new() } else { files(root, source)? };
    steps.extend(containerd::install(root)?);
    steps.extend(docker::install(root)?);
    Ok(steps)
}

/// The steps that put the files of `source` in place.
fn files(root: &Root, source: &Path) -> Result<Vec<Step>, InstallError> {
    let mut steps = Vec::new();
    let library = root.at(LIBRARY);
    let guest = GUEST.map(|name| PathBuf::from("guest").join(name));
    for name in NAMES.iter().map(PathBuf::from).chain(guest) {
        let from = source.join(&name);
        if !from.exists() {
            return Err(InstallError::Missing(from));
        }
        steps.push(Step::Copy { from, to: library.join(name) });
    }
    for name in NAMES {
        let target = Path::new(LIBRARY).join(name);
        steps.push(Step::Link { path: root.at(PROGRAMS).join(name), target });
    }
    Ok(steps)
}

/// The steps of its removal.
pub fn uninstall(root: &Root) -> Result<Vec<Step>, InstallError> {
    let mut steps = Vec::new();
    steps.extend(docker::uninstall(root)?);
    steps.extend(containerd::uninstall(root));
    let library = root.at(LIBRARY);
    let links = NAMES.map(|name| root.at(PROGRAMS).join(name));
    let files = NAMES.map(|name| library.join(name)).into_iter();
    let guest = GUEST.map(|name| library.join("guest").join(name));
    steps.extend(links.into_iter().chain(files).chain(guest).map(Step::Remove));
    steps.extend([library.join("guest"), library].map(Step::RemoveDirectory));
    steps.retain(Step::is_needed);
    Ok(steps)
}

#[cfg(test)]
mod tests;
