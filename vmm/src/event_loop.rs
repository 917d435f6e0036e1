//! Waiting for file descriptors: a thin face on epoll(7), used by the main thread and by every device worker.
//!
//! A loop owns its `Poller` and its descriptors; there is no registry of callbacks. The tokens are the
//! caller's numbers, so that a loop is one `match` from top to bottom.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// How many ready descriptors one wait takes from the kernel; more are taken by the next wait.
const BATCH: usize = 32;

/// A set of descriptors to wait for, each with the token it was added under.
pub struct Poller {
    epoll: Epoll,
    ready: [EpollEvent; BATCH],
}

impl Poller {
    /// An empty set. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, ready: [EpollEvent::default(); BATCH] })
    }

    /// Adds `fd`, to be reported under `token` while any of `events` holds (level-triggered unless
    /// `events` says otherwise).
    pub fn add(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, token, events)
    }

    /// Replaces the events that `fd` is watched for.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, token, events)
    }

    /// Takes `fd` out of the set.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd, 0, EventSet::empty())
    }

    /// Waits until a descriptor is ready, or `timeout_ms` have passed (-1: no limit). A signal ends the wait
    /// with no event.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<impl Iterator<Item = (u64, EventSet)> + use<>> {
        let count = match self.epoll.wait(timeout_ms, &mut self.ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let ready = self.ready;
        Ok(ready.into_iter().take(count).map(|event| (event.data(), event.event_set())))
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: &impl AsRawFd,
        token: u64,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, fd.as_raw_fd(), EpollEvent::new(events, token))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn a_ready_descriptor_is_reported_under_its_token() {
        let mut poller = Poller::new().unwrap();
        let (idle, ready) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        poller.add(&idle, 1, EventSet::IN).unwrap();
        poller.add(&ready, 2, EventSet::IN).unwrap();
        ready.write(1).unwrap();
        let tokens: Vec<_> = poller.wait(-1).unwrap().map(|(token, _)| token).collect();
        assert_eq!(tokens, [2]);
    }

    #[test]
    fn a_removed_descriptor_is_not_reported() {
        let mut poller = Poller::new().unwrap();
        let event = EventFd::new(1).unwrap();
        poller.add(&event, 1, EventSet::IN).unwrap();
        poller.remove(&event).unwrap();
        assert_eq!(poller.wait(0).unwrap().count(), 0);
    }
}
