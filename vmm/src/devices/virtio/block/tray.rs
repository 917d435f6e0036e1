//! Where a disk's medium is, or will be: the main thread puts it in and takes it out, the disk's thread looks at every
//! request what is there.
//!
//! A placeholder has no medium at first. It gets one while the machine runs, and keeps it, over resets too, until it is
//! taken away.
//!
//! The data path takes no lock: the disk's thread knows the medium it has seen ([`Seen`]) and looks at the tray itself
//! only when a count says that it was changed, which that of a plain disk never is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::medium::Medium;

/// The tray. Clones are the same one.
#[derive(Clone, Default)]
pub struct Tray(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Held for as long as it takes to read or to change it: nobody waits for somebody else's work.
    medium: Mutex<Option<Arc<Medium>>>,
    /// How often the medium was changed; goes up while the lock is held.
    changes: AtomicU64,
}

impl Tray {
    /// A tray with `medium` in it.
    pub fn with(medium: Medium) -> Self {
        let tray = Self::default();
        tray.insert(medium);
        tray
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Medium>>> {
        // Each change is complete in itself.
        self.0.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, place: &mut Option<Arc<Medium>>, medium: Option<Arc<Medium>>) -> Option<Arc<Medium>> {
        let before = std::mem::replace(place, medium);
        self.0.changes.fetch_add(1, Ordering::Release);
        before
    }

    /// What is in it.
    pub fn medium(&self) -> Option<Arc<Medium>> {
        self.lock().clone()
    }

    /// Puts `medium` in; answers false if there is one already.
    pub fn insert(&self, medium: Medium) -> bool {
        let mut place = self.lock();
        if place.is_some() {
            return false;
        }
        self.change(&mut place, Some(Arc::new(medium)));
        true
    }

    /// Takes the medium out: nobody who looks from now on sees it. Requests on it may be under way, each of which
    /// holds it.
    pub fn remove(&self) -> Option<Arc<Medium>> {
        self.change(&mut self.lock(), None)
    }

    /// Bytes of the disk; none without a medium.
    pub fn capacity(&self) -> u64 {
        self.lock().as_ref().map_or(0, |medium| medium.capacity())
    }
}

/// What the disk's thread has seen in a tray.
pub struct Seen {
    tray: Tray,
    /// After how many changes.
    changes: u64,
    /// Not held: the files of a medium that is taken out are closed when the last request on it ends.
    medium: Weak<Medium>,
}

impl Seen {
    /// What is in `tray`.
    pub fn of(tray: &Tray) -> Self {
        let mut seen = Self { tray: tray.clone(), changes: 0, medium: Weak::new() };
        seen.look();
        seen
    }

    /// What is in the tray now.
    pub fn medium(&mut self) -> Option<Arc<Medium>> {
        // Who was told of a change sees the count that belongs to it.
        if self.tray.0.changes.load(Ordering::Acquire) != self.changes {
            self.look();
        }
        self.medium.upgrade()
    }

    fn look(&mut self) {
        let place = self.tray.lock();
        self.changes = self.tray.0.changes.load(Ordering::Relaxed);
        self.medium = place.as_ref().map_or_else(Weak::new, Arc::downgrade);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs::File;
    use std::sync::mpsc::channel;

    use super::super::file::DiskFile;
    use super::*;
    use crate::devices::virtio::testing::PATIENCE;

    fn medium(capacity: u64) -> Medium {
        let file = Arc::new(File::open("/dev/null").unwrap());
        Medium::whole(DiskFile { file, block_device: false }, capacity)
    }

    fn capacity(seen: &mut Seen) -> Option<u64> {
        seen.medium().map(|medium| medium.capacity())
    }

    #[test]
    fn what_was_not_changed_is_seen_without_the_lock() {
        let plain = Tray::with(medium(512));
        let later = Tray::default();
        let mut seen = [Seen::of(&plain), Seen::of(&later)];
        later.insert(medium(1024));
        assert_eq!(seen.each_mut().map(capacity), [Some(512), Some(1024)]);

        let held = [plain.lock(), later.lock()];
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send(seen.each_mut().map(capacity)));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), [Some(512), Some(1024)]);
        drop(held);
    }

    #[test]
    fn what_is_taken_out_is_not_seen_although_a_request_holds_it() {
        let tray = Tray::default();
        let mut seen = Seen::of(&tray);
        assert_eq!(capacity(&mut seen), None);
        tray.insert(medium(512));
        let request = seen.medium();
        let removed = tray.remove();
        assert_eq!(capacity(&mut seen), None);
        tray.insert(medium(1024));
        assert_eq!(capacity(&mut seen), Some(1024));

        drop((removed, request));
        let removed = tray.remove().unwrap();
        assert_eq!(Arc::strong_count(&removed), 1, "what was seen is not held");
    }
}
