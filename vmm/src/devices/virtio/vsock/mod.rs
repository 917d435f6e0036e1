//! Socket device (virtio 1.2, section 5.10): stream connections between programs of the guest and of the host,
//! by port numbers, without a network and without a kernel module. The host's ends are Unix sockets
//! ([`listener`] says which).
//!
//! ```text
//!  guest ── transmit queue ──> transmit ──> connection ── writev ──> Unix socket ── host program
//!                                             │ backlog, if the program is slow
//!        <── receive queue ─── receive  <── connection ── readv ────
//! ```
//!
//! One worker, one loop ([`session`]). Data goes between the guest's memory and a socket without a copy, but for
//! what a slow program leaves waiting. Sockets and kicks are watched edge-triggered, once: what cannot go on for
//! want of buffers, credit or a reader is remembered, not polled, so nothing spins, and no connection waits for
//! another.
//!
//! What a guest can make the host hold is bounded: connections ([`table::MOST_CONNECTIONS`]), bytes kept for
//! each (its window), replies ([`transmit::MOST_REPLIES`]). A guest that breaks the protocol loses the
//! connection it did it on.
//!
//! Offered are stream sockets. The event queue is there for drivers; nothing is put into it, as a guest is never
//! moved away from its connections.
//!
//! What the worker's thread asks of the kernel once its seccomp filter is in place, besides what every worker
//! does (waiting for orders, memory, log lines, its end):
//!
//! | call | for |
//! |---|---|
//! | `epoll_create1`, `epoll_ctl`, `epoll_wait`, `close` | its poller, made at each start; ends of connections |
//! | `write` | the irqfd |
//! | `sendto` | the line `OK <port>`; what was kept for a program |
//! | `accept4`, `ioctl` FIONBIO | programs that connect |
//! | `socket` AF_UNIX, `connect` | the guest's connections |
//! | `recvfrom` | the line `CONNECT <port>` |
//! | `readv`, `writev`, `shutdown` | connections |
//! | `newfstatat`, `unlinkat` | the socket's name, at the end |
//! | `clock_gettime` | deadlines; mostly in the vDSO |

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod buffers;
mod chains;
mod connection;
mod listener;
mod packet;
mod receive;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod to_guest;
mod to_host;
mod transmit;
mod vectored;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

pub use listener::VsockError;

use self::buffers::Buffers;
use self::chains::Packet;
use self::listener::Listener;
use self::packet::Header;
use self::session::Session;
use self::table::Table;
use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};
use crate::event_loop::Poller;
use crate::jail::Within;

/// The queue of buffers for packets to the guest.
const RECEIVE: usize = 0;
/// The queue of packets from the guest.
const TRANSMIT: usize = 1;
/// Sizes of the two, and of the event queue. Linux keeps a page in each receive buffer.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// VIRTIO_VSOCK_F_STREAM: stream sockets (5.10.3).
const FEATURE_STREAM: u64 = 1 << 0;

/// How long a program may take to say which port it wants, the guest to answer a call, or to confirm an end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket device.
pub struct Vsock {
    cid: u32,
    listener: Listener,
    table: Table,
    /// Packets for the guest that belong to no connection.
    replies: VecDeque<Header>,
    patience: Duration,
    stats: Arc<DeviceStats>,
}

impl Vsock {
    /// A device for the guest with the identifier and the socket that `config` names. Programs can connect from
    /// now on; they wait until the guest's driver runs.
    pub fn open(config: &rvm_config::Vsock) -> Result<Self, VsockError> {
        let listener = Listener::bind(&config.socket)?;
        let (table, replies, stats) = (Table::new(), VecDeque::new(), Arc::default());
        Ok(Self { cid: config.cid, listener, table, replies, patience: PATIENCE, stats })
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        FEATURE_STREAM | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<ConfigSpace> {
        Arc::new(ConfigSpace::read_only(&u64::from(self.cid).to_le_bytes()))
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn relocate(&mut self, within: Within<'_>) -> io::Result<()> {
        self.listener.relocate(within)
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, interrupt, queues, stop, .. } = activation;
        let [receive, transmit, _events] = queues.as_mut_slice() else {
            return Err(DeviceError::QueueMissing(TRANSMIT));
        };
        for (index, queue) in [(RECEIVE, &*receive), (TRANSMIT, &*transmit)] {
            if !queue.ready() {
                return Err(DeviceError::QueueMissing(index));
            }
        }
        let Self { cid, listener, table, replies, patience, stats } = self;
        let entered = listener.enter_thread().map_err(Into::into);
        entered.map_err(DeviceError::host("give the thread a working directory of its own"))?;
        let session = Session {
            cid: *cid,
            listener,
            table,
            replies,
            patience: *patience,
            stats,
            memory,
            known_used: (receive.ring.next_used(), transmit.ring.next_used()),
            buffers: Buffers::new(receive, memory, stats),
            transmit_queue: transmit,
            packet: Packet::default(),
            interrupt,
            poller: Poller::new().map_err(DeviceError::host("make a poller"))?,
            accepting: true,
            look: None,
        };
        session.run(stop)
    }

    fn reset(&mut self) {
        let Self { cid: _, listener: _, table, replies, patience: _, stats: _ } = self;
        table.clear();
        replies.clear();
    }

    fn close(&mut self) {
        self.listener.remove();
    }
}
