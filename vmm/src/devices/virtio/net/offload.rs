//! Checksum and segmentation offloads (virtio 1.2, sections 5.1.3 and 5.1.6): the feature bits, the tap's flags
//! that they stand for, and the header in front of each packet.
//!
//! UDP fragmentation (UFO) is not offered: Linux has stopped doing it, and segments instead (USO).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};

/// Bytes of `virtio_net_hdr_v1`, in front of every packet on the rings and on the tap.
pub const HEADER_SIZE: usize = 12;
/// Where the header says how many buffers hold the packet (`num_buffers`).
pub const NUM_BUFFERS: usize = 10;
/// Where the header has its flags.
pub const FLAGS: usize = 0;
/// The flag that asks for the checksum to be filled in.
pub const NEEDS_CSUM: u8 = 1;
/// Where the header says how the packet is to be segmented (`gso_type`).
const GSO_TYPE: usize = 1;

/// What every tap can do.
pub const TAP_BASIC: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// What a tap can do since Linux 6.2 as well; the two come together.
pub const TAP_USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// The features a card can offer on a tap whose capabilities are `tap`, a set of `TUN_F_*`.
pub fn features(tap: u32) -> u64 {
    let basic = bit(VIRTIO_NET_F_CSUM)
        | bit(VIRTIO_NET_F_HOST_TSO4)
        | bit(VIRTIO_NET_F_HOST_TSO6)
        | bit(VIRTIO_NET_F_HOST_ECN)
        | bit(VIRTIO_NET_F_GUEST_CSUM)
        | bit(VIRTIO_NET_F_GUEST_TSO4)
        | bit(VIRTIO_NET_F_GUEST_TSO6)
        | bit(VIRTIO_NET_F_GUEST_ECN);
    let uso = bit(VIRTIO_NET_F_HOST_USO) | bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6);
    let mut features = 0;
    if tap & TAP_BASIC == TAP_BASIC {
        features |= basic;
        if tap & TAP_USO == TAP_USO {
            features |= uso;
        }
    }
    features
}

/// What the tap may leave to the driver that took `features`, as the `TUN_F_*` of TUNSETOFFLOAD.
///
/// Segmentation needs the checksum, and ECN needs TCP segmentation (5.1.3.1); where a driver left one out, the
/// kernel does the work.
pub fn tap_flags(features: u64) -> u32 {
    let has = |feature| features & bit(feature) != 0;
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut flags = libc::TUN_F_CSUM;
    let (tso4, tso6) = (has(VIRTIO_NET_F_GUEST_TSO4), has(VIRTIO_NET_F_GUEST_TSO6));
    for (wanted, flag) in [
        (tso4, libc::TUN_F_TSO4),
        (tso6, libc::TUN_F_TSO6),
        ((tso4 || tso6) && has(VIRTIO_NET_F_GUEST_ECN), libc::TUN_F_TSO_ECN),
        (has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6), TAP_USO),
    ] {
        flags |= if wanted { flag } else { 0 };
    }
    flags
}

/// Whether a driver that took `features` may ask for what `header` asks for (5.1.6.2.1).
///
/// The offsets and sizes in it are for the kernel to check, which does so against the packet (EINVAL).
pub fn may_send(header: &[u8; HEADER_SIZE], features: u64) -> bool {
    let has = |feature| features & bit(feature) != 0;
    let kind = u32::from(header[GSO_TYPE]);
    let checksum = header[FLAGS] & NEEDS_CSUM == 0 || has(VIRTIO_NET_F_CSUM);
    let segments = match kind & !VIRTIO_NET_HDR_GSO_ECN {
        VIRTIO_NET_HDR_GSO_NONE => return checksum && kind == VIRTIO_NET_HDR_GSO_NONE,
        VIRTIO_NET_HDR_GSO_TCPV4 => has(VIRTIO_NET_F_HOST_TSO4),
        VIRTIO_NET_HDR_GSO_TCPV6 => has(VIRTIO_NET_F_HOST_TSO6),
        VIRTIO_NET_HDR_GSO_UDP_L4 => has(VIRTIO_NET_F_HOST_USO) && kind & VIRTIO_NET_HDR_GSO_ECN == 0,
        _ => false,
    };
    checksum && segments && (kind & VIRTIO_NET_HDR_GSO_ECN == 0 || has(VIRTIO_NET_F_HOST_ECN))
}

/// The feature's bit in a set of features.
pub const fn bit(feature: u32) -> u64 {
    1 << feature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tap_leaves_to_the_driver_only_what_it_took_with_what_that_needs() {
        let all = features(TAP_BASIC | TAP_USO);
        assert_eq!(tap_flags(all), TAP_BASIC | TAP_USO);
        assert_eq!(tap_flags(features(TAP_BASIC)), TAP_BASIC);
        assert_eq!(tap_flags(all & !bit(VIRTIO_NET_F_GUEST_CSUM)), 0);
        assert_eq!(tap_flags(bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_ECN)), libc::TUN_F_CSUM);
        let half_uso = bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_USO4);
        assert_eq!(tap_flags(half_uso), libc::TUN_F_CSUM);
        assert_eq!(features(0), 0);
    }

    #[test]
    fn a_header_asks_only_for_what_was_negotiated() {
        let header = |flags, kind| [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let all = features(TAP_BASIC | TAP_USO);
        for (flags, kind, feature) in [
            (1, 0, VIRTIO_NET_F_CSUM),
            (1, 1, VIRTIO_NET_F_CSUM),
            (1, 1, VIRTIO_NET_F_HOST_TSO4),
            (1, 4, VIRTIO_NET_F_HOST_TSO6),
            (1, 5, VIRTIO_NET_F_HOST_USO),
            (1, 0x81, VIRTIO_NET_F_HOST_ECN),
            (1, 0x84, VIRTIO_NET_F_HOST_ECN),
        ] {
            assert!(may_send(&header(flags, kind), all), "{flags:#x} {kind:#x}");
            assert!(!may_send(&header(flags, kind), all & !bit(feature)), "{flags:#x} {kind:#x} {feature}");
        }
        for kind in [2, 3, 6, 0x7f, 0x80, 0x83, 0x85, 0xff] {
            assert!(!may_send(&header(1, kind), all), "{kind:#x}");
        }
        assert!(may_send(&header(0, 0), 0));
        assert!(may_send(&header(0xfe, 0), 0), "flags that are not known are ignored");
    }
}
