//! A disk that is there from the start and gets its medium while the machine runs, and may lose it again: seen from
//! the main thread.
//!
//! The medium comes first, then the capacity in the configuration space, then the interrupt that tells of it: a driver
//! that knows of the disk's bytes finds them. What Linux (6.12) makes of it: the capacity changes, without a uevent as
//! it was 0 before, and partitions are not looked for. So whoever mounts in the guest waits until
//! `/sys/block/vdX/size` is not 0, and for a disk of parts asks for the partitions (the ioctl BLKRRPART).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use rvm_config::MAX_DISK_PARTS;
use rvm_config::control::Layout;

use super::super::{ConfigSpace, Interrupt};
use super::config;
use super::medium::Medium;
use super::open::{self, BlockError};
use super::request::SECTOR;
use super::tray::Tray;

/// Why nothing can be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such disk.
    #[error("cannot find disk '{0}': the VM has no placeholder of this id")]
    Missing(String),
    /// There is something already.
    #[error("cannot attach to disk '{0}': something is attached already; detach it first")]
    Occupied(String),
    /// There is nothing.
    #[error("cannot detach from disk '{0}': nothing is attached")]
    Vacant(String),
    /// The host has not done what the guest asked for before.
    #[error(
        "cannot detach from disk '{0}' yet: it is gone for the guest, but a request on it is still under way; try again"
    )]
    Busy(String),
    /// More or fewer descriptors than the layout takes.
    #[error(
        "cannot attach {count} descriptors to disk '{id}': a whole disk is one, parts are 1 to {MAX_DISK_PARTS}"
    )]
    Descriptors {
        /// The disk.
        id: String,
        /// How many came.
        count: usize,
    },
    /// Partitions are read-only.
    #[error(
        "cannot attach parts to disk '{0}': the guest may write to it; have a read-only placeholder for parts"
    )]
    Writable(String),
    /// What the descriptors are of is no disk.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// How long requests under way may take when their disk's medium is taken away, and how often that is looked at.
const DETACH_PATIENCE: Duration = Duration::from_secs(1);
const DETACH_PAUSE_MS: u8 = 1;

/// A placeholder, to be given its medium.
pub struct Placeholder {
    id: String,
    read_only: bool,
    tray: Tray,
    config: Arc<ConfigSpace>,
    /// What was taken away, while a request holds it.
    leaving: Weak<Medium>,
}

impl Placeholder {
    /// The device of this `id` that takes its medium from `tray`, and tells of it in `config`.
    pub fn new(id: String, read_only: bool, tray: Tray, config: Arc<ConfigSpace>) -> Self {
        Self { id, read_only, tray, config, leaving: Weak::new() }
    }

    /// The disk's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes `files`, which are arranged as `layout` says, the disk's medium. `interrupt` is the device's.
    pub fn attach(
        &self,
        layout: Layout,
        files: Vec<OwnedFd>,
        interrupt: &Interrupt,
    ) -> Result<(), AttachError> {
        if self.tray.medium().is_some() {
            return Err(AttachError::Occupied(self.id.clone()));
        }
        match (layout, files.len()) {
            (Layout::Whole, 1) | (Layout::Parts, 1..=MAX_DISK_PARTS) => {}
            (_, count) => return Err(AttachError::Descriptors { id: self.id.clone(), count }),
        }
        if layout == Layout::Parts && !self.read_only {
            return Err(AttachError::Writable(self.id.clone()));
        }
        let medium = open::take(&self.id, layout, files, self.read_only)?;
        let sectors = medium.capacity() / SECTOR;
        // Nobody else attaches: there is one main thread.
        if !self.tray.insert(medium) {
            return Err(AttachError::Occupied(self.id.clone()));
        }
        self.config.update(config::CAPACITY, &sectors.to_le_bytes());
        interrupt.config_changed();
        Ok(())
    }

    /// Takes the disk's medium away: when this is done nothing more is read or written, and its files are closed, with
    /// their locks. Who has it mounted in the guest gets errors. `interrupt` is the device's.
    pub fn detach(&mut self, interrupt: &Interrupt) -> Result<(), AttachError> {
        if let Some(medium) = self.tray.remove() {
            self.leaving = Arc::downgrade(&medium);
            self.config.update(config::CAPACITY, &0_u64.to_le_bytes());
            interrupt.config_changed();
        } else if self.leaving.strong_count() == 0 {
            return Err(AttachError::Vacant(self.id.clone()));
        }
        let begin = Instant::now();
        while self.leaving.strong_count() > 0 {
            if begin.elapsed() >= DETACH_PATIENCE {
                return Err(AttachError::Busy(self.id.clone()));
            }
            // A pause, with what this thread may call; a signal that cuts it short does no harm.
            poll(&mut [], PollTimeout::from(DETACH_PAUSE_MS)).ok();
        }
        self.leaving = Weak::new();
        Ok(())
    }
}
