//! Network card (virtio 1.2, section 5.1), with a tap or a stream socket as its other end on the host.
//!
//! ```text
//!   guest ── transmitq ──> transmit ──> tap: a packet a call ──────────> the host's network
//!         <── receiveq ──  receive  <── stream: frames behind lengths <──> a program, as passt
//! ```
//!
//! One worker, one loop ([`link`]); between a tap and the guest nothing is copied. No control queue: the host decides
//! by its end what reaches the guest, and drivers do without one. A header from the guest is judged ([`offload`])
//! before it goes to the host's kernel.
//!
//! What the worker's thread asks of the kernel once its seccomp filter is in place, besides what every worker
//! does (waiting for orders, memory, log lines, its end):
//!
//! | call | for |
//! |---|---|
//! | `epoll_create1`, `epoll_ctl`, `epoll_wait`, `close` | its poller, made at each start |
//! | `read`, `write` | eventfds: kicks and the stop; the irqfd |
//! | `readv`, `writev` | the tap |
//! | `read`, `write`, `writev` | the socket |
//! | `ioctl` TUNSETOFFLOAD (0x400454d0) | the tap, at activation |

pub mod host;
mod link;
mod offload;
mod parts;
mod receive;
pub mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;
mod used;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use rvm_config::MacAddress;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use host::HostEnd;
pub use tap::{NetError, Tap};

use self::link::{Link, RECEIVE, TRANSMIT, Wait};
use self::offload::bit;
use self::receive::{KeptBack, Receiver};
use self::transmit::Transmitter;
use super::{Activation, ConfigSpace, DeviceError, DeviceKind, DeviceStats, VirtioDevice};

/// Most bytes of a frame without the virtio header: what 5.1.6.3.1 has drivers make room for, header included.
const LONGEST_FRAME: usize = 65562;

/// Where the configuration space has the link's status (5.1.4); the MAC address is before it.
const CONFIG_STATUS: usize = 6;
/// VIRTIO_NET_S_LINK_UP and its absence, little-endian.
const LINK_UP: [u8; 2] = [1, 0];
const LINK_DOWN: [u8; 2] = [0, 0];
/// Bytes of the configuration space up to the MTU.
const CONFIG_SIZE: usize = 12;
const CONFIG_MTU: usize = 10;

/// A network card.
pub struct Net {
    host: HostEnd,
    config: Arc<ConfigSpace>,
    stats: Arc<DeviceStats>,
    features: u64,
    kept_back: KeptBack,
    /// The host's end knows what the driver took, since the last reset.
    offloads_set: bool,
    /// The host's end failed and stays so.
    host_lost: bool,
}

impl Net {
    /// A card connected to what `config` names.
    pub fn open(config: &rvm_config::Net) -> Result<Self, NetError> {
        let host = HostEnd::open(&config.host)?;
        let mac = match config.mac {
            Some(mac) => mac,
            None => random_mac().map_err(NetError::Random)?,
        };
        Ok(Self::new(host, mac, config.mtu, config.offload))
    }

    /// A card on `host` with the address `mac`, telling the driver `mtu`, with offloads if `offload`.
    pub fn new(host: HostEnd, mac: MacAddress, mtu: Option<u16>, offload: bool) -> Self {
        let mut features = bit(VIRTIO_RING_F_EVENT_IDX)
            | bit(VIRTIO_RING_F_INDIRECT_DESC)
            | bit(VIRTIO_NET_F_MAC)
            | bit(VIRTIO_NET_F_STATUS)
            | bit(VIRTIO_NET_F_MRG_RXBUF);
        features |= if offload { offload::features(host.offloads()) } else { 0 };
        features |= if mtu.is_some() { bit(VIRTIO_NET_F_MTU) } else { 0 };
        let mut config = [0; CONFIG_SIZE];
        config[..CONFIG_STATUS].copy_from_slice(&mac.0);
        config[CONFIG_STATUS..][..2].copy_from_slice(&LINK_UP);
        config[CONFIG_MTU..].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
        let (config, stats) = (Arc::new(ConfigSpace::read_only(&config)), Arc::default());
        let (offloads_set, host_lost) = (false, false);
        Self { host, config, stats, features, kept_back: KeptBack::new(), offloads_set, host_lost }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn stats(&self) -> Arc<DeviceStats> {
        self.stats.clone()
    }

    fn run(&mut self, activation: &mut Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, interrupt, queues, stop } = activation;
        let [receive, transmit] = queues.as_mut_slice() else {
            return Err(DeviceError::QueueMissing(TRANSMIT));
        };
        for (index, queue) in [(RECEIVE, &*receive), (TRANSMIT, &*transmit)] {
            if !queue.ready() {
                return Err(DeviceError::QueueMissing(index));
            }
        }
        if !self.offloads_set && !self.host_lost {
            let flags = offload::tap_flags(*features);
            self.host.set_offloads(flags).map_err(DeviceError::host("set the offloads of the host's end"))?;
            self.offloads_set = true;
        }
        let link = Link {
            host: (!self.host_lost).then_some(&mut self.host),
            receiver: Receiver::new(memory, receive, *features, &self.stats, &mut self.kept_back),
            transmitter: Transmitter::new(memory, transmit, *features, &self.stats),
            interrupt,
            stats: &self.stats,
            config: &self.config,
        };
        self.host_lost = link.run(stop)?;
        Ok(())
    }

    fn reset(&mut self) {
        let Self { host: _, config: _, stats: _, features: _, kept_back, offloads_set, host_lost: _ } = self;
        kept_back.clear();
        *offloads_set = false;
    }
}

/// A random unicast address, marked as locally administered.
fn random_mac() -> io::Result<MacAddress> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(MacAddress(bytes))
}
