//! A sandbox's place on the bridge, from its first to its last moment. All of this blocks, for as long as the kernel and
//! nft take.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::bridge::{self, Bridge};
use super::{Identity, NetworkError, firewall};

/// How often another runtime directory may take the bridge away while a sandbox is being connected.
const MOST_TRIES: u32 = 5;

/// Where the lock is that all who manage the bridge share.
const LOCKED: &str = "/run/rvm";

/// A sandbox's place on the bridge. Dropped, it is given back.
pub struct Place {
    /// The sandbox's card, until the VMM has it.
    pub tap: Option<OwnedFd>,
    /// Who the sandbox is on it.
    pub identity: Identity,
    runtime_dir: PathBuf,
    given_back: bool,
}

impl Place {
    /// Makes what is not there of bridge and rules, and a tap for the sandbox `vm_id`.
    pub fn take(vm_id: &str, runtime_dir: &Path) -> Result<Self, NetworkError> {
        let _lock = lock(runtime_dir)?;
        match connect(vm_id) {
            Ok((tap, identity)) => {
                let runtime_dir = runtime_dir.to_owned();
                Ok(Self { tap: Some(tap), identity, runtime_dir, given_back: false })
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = bridge::remove_idle();
                Err(error)
            }
        }
    }

    /// Gives it back.
    pub fn give_back(mut self) -> Result<(), NetworkError> {
        self.given_back = true;
        self.tap = None;
        reclaim(&self.runtime_dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.given_back {
            self.tap = None;
            // Whoever lets go of it like this has another error to tell; the next one who comes finds the bridge.
            let _ = reclaim(&self.runtime_dir);
        }
    }
}

/// Removes what no sandbox uses any more.
pub fn reclaim(runtime_dir: &Path) -> Result<(), NetworkError> {
    let _lock = lock(runtime_dir)?;
    bridge::remove_idle()
}

fn connect(vm_id: &str) -> Result<(OwnedFd, Identity), NetworkError> {
    let mut tries = 0;
    loop {
        let (bridge, made) = Bridge::find_or_make()?;
        let loaded = !made && firewall::is_loaded().map_err(NetworkError::reading_rules)?;
        if !loaded {
            firewall::load(&bridge.subnet)?;
            bridge::enable_forwarding()?;
        }
        tries += 1;
        match bridge.plug(vm_id) {
            Ok((tap, address)) => return Ok((tap, Identity { subnet: bridge.subnet, address })),
            Err(error) if error.is_gone() && tries < MOST_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until nobody else changes bridge and rules. Whoever has the lock waits for nothing but the kernel and nft.
/// The directory itself is locked, and stays. There is one bridge however many runtime directories there are, so all
/// lock the same, but those who may not make it there: root in a user namespace.
fn lock(runtime_dir: &Path) -> Result<Flock<File>, NetworkError> {
    let directory = directory(Path::new(LOCKED))
        .or_else(|_| directory(runtime_dir))
        .map_err(|(path, source)| failed_to_lock(&path, source))?;
    let (path, directory) = directory;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| failed_to_lock(&path, errno.into()))
}

/// The directory to lock below one for what runs, made if it is not there.
fn directory(below: &Path) -> Result<(PathBuf, File), (PathBuf, io::Error)> {
    let path = below.join("network");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    match made.and_then(|()| File::open(&path)) {
        Ok(directory) => Ok((path, directory)),
        Err(source) => Err((path, source)),
    }
}

fn failed_to_lock(path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Io { attempt: format!("lock {}", path.display()), source }
}
