//! Network cards as `rvm boot --net` makes them, seen from inside, and what is counted of them.

use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rvm::devices::virtio::net::Tap as OpenTap;
use rvm_tests::guest::Tap;

use super::run::{guest, said_by};
use super::stats::of_device;

/// Feature bits of a card (virtio 1.2, section 5.1.3), which sysfs has in this order: checksums and segmentation, both ways.
const OFFLOADS: [usize; 8] = [0, 1, 7, 8, 9, 11, 12, 13];
/// VIRTIO_NET_F_MTU.
const MTU: usize = 3;

/// Whether the driver took a feature, by `/sys/bus/virtio/devices/*/features`.
fn taken(features: &str, bit: usize) -> bool {
    features.as_bytes()[bit] == b'1'
}

#[test]
fn a_card_on_an_open_tap_has_the_mtu_asked_for_and_no_offloads_where_they_are_off() {
    let tap = Tap::new("rvm-open", "192.0.2.13/30").unwrap();
    let open = OpenTap::open(&rvm_config::Tap::Name(tap.name().into())).unwrap();
    fcntl(&open, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let card = format!("fd={},mtu=1300,offload=off", open.as_raw_fd());
    let script = "ip address add 192.0.2.14/30 dev eth0; ip link set eth0 up; cd /sys/class/net/eth0; \
                  cat mtu device/features; ping -c 3 -s 1000 192.0.2.13 | grep received";
    let ran = guest(&["--net", &card, "--stats"], script);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let lines: Vec<_> = ran.said().lines().collect();
    let [mtu, features, received] = lines[..] else { panic!("{ran:?}") };
    assert_eq!(mtu, "1300");
    assert!(taken(features, MTU) && OFFLOADS.iter().all(|bit| !taken(features, *bit)), "{features}");
    assert!(received.starts_with("3 packets transmitted, 3 packets received"), "{received}");
    // Each ping, and each answer, has 1000 bytes behind three headers (14, 20 and 8).
    let net = of_device(&ran.error, "net");
    assert!(net.bytes_in >= 3 * 1042 && net.bytes_out >= 3 * 1042, "{net:?}");
    assert!(net.operations >= 6 && net.errors == 0 && net.kicks > 0 && net.interrupts > 0, "{net:?}");
}

#[test]
fn a_card_leaves_checksums_and_segments_to_the_host_unless_told_otherwise() {
    let tap = Tap::new("rvm-offload", "192.0.2.17/30").unwrap();
    let said = said_by(&["--net", tap.name()], "cd /sys/class/net/eth0; cat mtu device/features");
    let (mtu, features) = said.split_once('\n').unwrap();
    assert_eq!(mtu, "1500");
    assert!(!taken(features, MTU) && OFFLOADS.iter().all(|bit| taken(features, *bit)), "{features}");
}
