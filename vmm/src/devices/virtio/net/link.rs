//! A card while it runs: one loop between the driver's kicks and the host's end.
//!
//! What is watched follows from what each direction waits for. A host's end with packets that the guest
//! has no buffers for is not watched, and neither is one that could take packets when there are none: nothing that
//! cannot be acted on wakes the loop.

use std::io;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::host::HostEnd;
use super::receive::Receiver;
use super::transmit::Transmitter;
use crate::devices::virtio::{ConfigSpace, DeviceError, DeviceStats, Interrupt};
use crate::event_loop::Poller;

/// The index of the queue of buffers for packets to the guest.
pub const RECEIVE: usize = 0;
/// The index of the queue of packets from the guest.
pub const TRANSMIT: usize = 1;

const STOP: u64 = 0;
const RECEIVE_KICK: u64 = 1;
const TRANSMIT_KICK: u64 = 2;
const HOST: u64 = 3;

/// What a direction waits for.
pub enum Wait {
    /// It has done its share of work for now and goes on at once.
    Nothing,
    /// The driver's next kick.
    Kick,
    /// The host's end.
    Host,
    /// The host's end failed: nothing more comes of it.
    HostLost(io::Error),
}

/// A running card.
pub struct Link<'m> {
    /// Where packets come from and go to, until it is lost.
    pub host: Option<&'m mut HostEnd>,
    /// Host to guest.
    pub receiver: Receiver<'m>,
    /// Guest to host.
    pub transmitter: Transmitter<'m>,
    /// The card's interrupt.
    pub interrupt: &'m Interrupt,
    /// The card's counters.
    pub stats: &'m DeviceStats,
    /// The card's configuration, with the status of the link.
    pub config: &'m ConfigSpace,
}

/// The driver posted buffers: work for a direction that waits for them, and nothing new for one that waits for
/// the host.
fn kicked(wait: &mut Wait) {
    if let Wait::Kick = wait {
        *wait = Wait::Nothing;
    }
}

impl Link<'_> {
    /// Moves packets until `stop` is readable. Answers whether the host's end was lost.
    pub fn run(mut self, stop: &EventFd) -> Result<bool, DeviceError> {
        let mut poller = Poller::new().map_err(DeviceError::host("make a poller"))?;
        let mut watched = EventSet::empty();
        self.watch_all(&poller, stop).map_err(DeviceError::host("watch for events"))?;
        let (mut receive, mut transmit) = (Wait::Nothing, Wait::Nothing);
        loop {
            if let Wait::Nothing = receive {
                receive = self.receive()?;
            }
            if let Wait::Nothing = transmit {
                transmit = self.transmit()?;
            }
            for wait in [&mut receive, &mut transmit] {
                if let Wait::HostLost(error) = wait {
                    self.lose_host(&poller, error);
                    *wait = Wait::Nothing;
                }
            }
            self.watch(&poller, &mut watched, &receive, &transmit)
                .map_err(DeviceError::host("watch the host's end"))?;
            let busy = matches!((&receive, &transmit), (Wait::Nothing, _) | (_, Wait::Nothing));
            let timeout = if busy { 0 } else { -1 };
            let events = poller.wait(timeout).map_err(DeviceError::host("wait for events"))?;
            self.stats.wakeups.add(1);
            for (token, events) in events {
                match token {
                    STOP => {
                        self.receiver.give_back();
                        return Ok(self.host.is_none());
                    }
                    RECEIVE_KICK => {
                        self.receiver.queue().kick.read().ok();
                        self.stats.kicks.add(1);
                        kicked(&mut receive);
                    }
                    TRANSMIT_KICK => {
                        self.transmitter.queue().kick.read().ok();
                        self.stats.kicks.add(1);
                        kicked(&mut transmit);
                    }
                    _ if events.intersects(EventSet::ERROR | EventSet::HANG_UP) => {
                        self.lose_host(&poller, &io::Error::from_raw_os_error(libc::EBADFD));
                        (receive, transmit) = (Wait::Nothing, Wait::Nothing);
                    }
                    _ => {
                        if events.contains(EventSet::IN) {
                            receive = Wait::Nothing;
                        }
                        if events.contains(EventSet::OUT) {
                            transmit = Wait::Nothing;
                        }
                    }
                }
            }
        }
    }

    fn watch_all(&self, poller: &Poller, stop: &EventFd) -> io::Result<()> {
        poller.add(stop, STOP, EventSet::IN)?;
        poller.add(&self.receiver.queue().kick, RECEIVE_KICK, EventSet::IN)?;
        poller.add(&self.transmitter.queue().kick, TRANSMIT_KICK, EventSet::IN)?;
        self.host.as_deref().map_or(Ok(()), |host| poller.add(host, HOST, EventSet::empty()))
    }

    /// Watches the host's end for what the two directions wait for.
    fn watch(
        &self,
        poller: &Poller,
        watched: &mut EventSet,
        receive: &Wait,
        transmit: &Wait,
    ) -> io::Result<()> {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, matches!(receive, Wait::Host));
        wanted.set(EventSet::OUT, matches!(transmit, Wait::Host));
        match &self.host {
            Some(host) if wanted != *watched => {
                *watched = wanted;
                poller.modify(*host, HOST, wanted)
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<Wait, DeviceError> {
        // Without a host nothing comes, and the driver may keep its buffers.
        let Some(host) = self.host.as_deref_mut() else {
            return Ok(Wait::Kick);
        };
        let wait = self.receiver.receive(host).map_err(DeviceError::queue(RECEIVE))?;
        if self.receiver.wants_interrupt().map_err(DeviceError::queue(RECEIVE))? {
            self.interrupt.used();
        }
        Ok(wait)
    }

    fn transmit(&mut self) -> Result<Wait, DeviceError> {
        let wait =
            self.transmitter.transmit(self.host.as_deref_mut()).map_err(DeviceError::queue(TRANSMIT))?;
        if self.transmitter.wants_interrupt().map_err(DeviceError::queue(TRANSMIT))? {
            self.interrupt.used();
        }
        Ok(wait)
    }

    /// The host's end is gone, a tap deleted or a program ended: the guest sees its cable pulled.
    fn lose_host(&mut self, poller: &Poller, error: &io::Error) {
        if let Some(host) = self.host.take() {
            log::warn!("net device: the host's end is lost, the guest's link goes down: {error}");
            // It reports its failure for ever; one that cannot be taken out is not watched already.
            poller.remove(host).ok();
            self.config.update(super::CONFIG_STATUS, &super::LINK_DOWN);
            self.interrupt.config_changed();
        }
    }
}
