//! The guest's kernel has what container engines want of theirs: an engine may run in a container here.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::run::said_by;

/// What is run in the guest, of the host's programs: its `/usr` is shared with the guest.
const PROGRAMS: [&str; 4] =
    ["/usr/sbin/nft", "/usr/sbin/iptables-nft-restore", "/usr/sbin/ip", "/usr/bin/perl"];

/// Makes a root directory of what is shared, and runs the script there.
const ENTER: &str = "mkdir -p /host/usr /host/work /host/dev /host/proc /host/run; \
                     mount -t virtiofs -o ro usr /host/usr; mount -t virtiofs -o ro work /host/work; \
                     for name in bin sbin lib lib64; do ln -s usr/$name /host/$name; done; \
                     for name in dev proc; do mount -o bind /$name /host/$name; done; \
                     PATH=/usr/sbin:/usr/bin exec chroot /host /usr/bin/sh -e /work/script 2>&1";

#[test]
fn what_container_engines_ask_of_a_kernel_is_there() {
    if let Some(missing) = PROGRAMS.iter().find(|program| !Path::new(program).exists()) {
        return rvm_tests::cannot_run(&format!("no {missing} on this host"));
    }
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("script"), SCRIPT).unwrap();
    let work = format!("{},tag=work,ro", directory.path().display());
    let said = said_by(&["--share", "/usr,tag=usr,ro", "--share", &work], ENTER);

    let (links, rest) = said.split_once("links\n").unwrap();
    for link in ["br0", "veth0@veth1", "veth1@veth0", "tap0", "tun0", "vx0", "macvlan0@veth1"] {
        assert!(links.lines().any(|line| line == link), "{link}: {said}");
    }
    let (rules, calls) = rest.split_once("rules\n").unwrap();
    for words in
        ["MASQUERADE", "DNAT --to-destination 10.0.0.1:80", "--dst-type LOCAL", "RELATED,ESTABLISHED"]
    {
        assert!(rules.contains(words), "{words}: {said}");
    }
    assert!(rules.contains("ip saddr 10.0.0.0/8 masquerade"), "{said}");
    assert_eq!(calls, "io_uring_setup 1\ninotify_init1 1\nfanotify_init 1\nbpf 1\n", "{said}");
}

/// As Docker has it: a bridge, a pair of cards with one end on it, address translation, what is connected already; the
/// networks of others; and calls, each of which is to give a descriptor (by their numbers; there is no program for them).
const SCRIPT: &str = r#"
ip -batch - <<END
link add br0 type bridge
link add veth0 type veth peer name veth1
link set veth0 master br0
tuntap add tap0 mode tap
tuntap add tun0 mode tun
link add vx0 type vxlan id 7 dstport 4789
link add macvlan0 link veth1 type macvlan mode bridge
END
ip -br link | cut -d ' ' -f 1
echo links
iptables-nft-restore <<END
*nat
-A POSTROUTING -s 10.0.0.0/8 ! -o br0 -j MASQUERADE
-A PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT
-A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80
COMMIT
*filter
-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
END
iptables-nft-save
nft -f - <<END
table inet own {
  chain nat {
    type nat hook postrouting priority 100
    ip saddr 10.0.0.0/8 masquerade
  }
}
END
nft list table inet own
echo rules
perl -e '
  my $zeroes = "\0" x 128;
  # BPF_MAP_CREATE of an array with one element: type, sizes of key and value, entries.
  my $map = pack("L4", 2, 4, 4, 1) . $zeroes;
  my @calls = (
    ["io_uring_setup", 425, 4, $zeroes], ["inotify_init1", 294, 0], ["fanotify_init", 300, 0, 0], ["bpf", 321, 0, $map, 72],
  );
  for (@calls) {
    my ($name, $number, @arguments) = @$_;
    print "$name ", (syscall($number, @arguments) >= 0 ? 1 : $!), "\n";
  }'
"#;
