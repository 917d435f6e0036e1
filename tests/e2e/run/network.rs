//! A container's network: ports of the host that lead into it, names, the way out, and none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use super::place::{Place, image};
use crate::process::{PATIENCE, Stream, run};

/// The address of the host's end of a published port.
#[track_caller]
pub fn published(place: &Place, name: &str, port: &str) -> SocketAddr {
    let ports = place.said(&["port", name]);
    let line = ports.lines().find_map(|line| line.strip_prefix(&format!("{port} -> ")));
    line.unwrap_or_else(|| panic!("{port}: {ports}")).parse().unwrap()
}

/// Fetches a page, trying again until somebody serves it.
#[track_caller]
pub fn fetch(address: SocketAddr, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--retry-all-errors", "--retry-delay", "1"]);
    curl.args(["--retry", &PATIENCE.as_secs().to_string(), "--max-time", "30"]);
    let ran = run({
        curl.arg(format!("http://{address}{path}"));
        curl
    });
    assert_eq!(ran.status, Some(0), "http://{address}{path}: {ran:?}");
    ran.out
}

#[test]
fn published_ports_lead_into_the_container() {
    let place = Place::with(&["python"]);
    let echo = "import socket\n\
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7)); print('up', flush=True)\n\
                while True:\n  data, peer = s.recvfrom(9000); s.sendto(data.upper(), peer)\n";
    let script = format!("python3 -m http.server 80 & exec python3 -c \"{echo}\"");
    place.said(&[
        "run",
        "-d",
        "--name",
        "echo",
        "-p",
        "127.0.0.1::80",
        "-p",
        "127.0.0.1::7/udp",
        "-w",
        "/etc",
        &image("python"),
        "bash",
        "-c",
        &script,
    ]);
    place.start(&["logs", "-f", "echo"]).out.wait_for("up\n");

    let page = fetch(published(&place, "echo", "80/tcp"), "/hostname");
    assert_eq!(page, place.said(&["exec", "echo", "cat", "/etc/hostname"]));

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(published(&place, "echo", "7/udp")).unwrap();
    let mut answer = [0; 9000];
    for question in ["first", "second"] {
        socket.send(question.as_bytes()).unwrap();
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..length]), question.to_uppercase());
    }

    let address = published(&place, "echo", "80/tcp");
    place.said(&["rm", "-f", "echo"]);
    // The port is free again.
    TcpListener::bind(address).unwrap();
}

/// dnsmasq with one name, on an address of this host that containers reach; gone when dropped.
struct NameServer {
    dnsmasq: Child,
}

impl NameServer {
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

    fn start() -> Self {
        for arguments in [
            ["link", "add", "rvm-names", "type", "dummy"].as_slice(),
            &["address", "add", "192.0.2.53/32", "dev", "rvm-names"],
            &["link", "set", "rvm-names", "up"],
        ] {
            assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
        }
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ]);
        dnsmasq.arg(format!("--listen-address={}", Self::ADDRESS));
        dnsmasq.args(["--address=/name.test/192.0.2.99", "--user=root"]);
        let mut dnsmasq = dnsmasq.stderr(Stdio::piped()).spawn().unwrap();
        Stream::new(dnsmasq.stderr.take().unwrap()).wait_for("started");
        Self { dnsmasq }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // Nobody is left to tell of an error.
        self.dnsmasq.kill().ok();
        self.dnsmasq.wait().ok();
        Command::new("ip").args(["link", "delete", "rvm-names"]).status().ok();
    }
}

#[test]
fn names_are_resolved_and_the_host_is_reached() {
    let place = Place::with(&["busybox"]);
    let _names = NameServer::start();
    let listener = TcpListener::bind((NameServer::ADDRESS, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"from the host\n").unwrap();
        peer
    });
    let script = format!(
        "cat /etc/resolv.conf; nslookup name.test; nc 192.0.2.53 {port}; ip -o address show dev eth0"
    );
    let dns = NameServer::ADDRESS.to_string();
    let said = place.said(&["run", "--rm", "--dns", &dns, &image("busybox"), "sh", "-c", &script]);
    assert!(said.contains("nameserver 192.0.2.53") && said.contains("192.0.2.99"), "{said}");
    assert!(said.contains("from the host\n") && said.contains("inet "), "{said}");
    server.join().unwrap();
}

#[test]
fn without_a_network_there_is_none() {
    let place = Place::with(&["busybox"]);
    let script = "ls /sys/class/net; ip route; ping -c 1 -W 1 192.0.2.1 2>&1";
    let ran = place.run(&["run", "--rm", "--network", "none", &image("busybox"), "sh", "-c", script]);
    assert!(ran.out.starts_with("lo\n") && ran.out.contains("Network is unreachable"), "{ran:?}");
    assert_ne!(ran.status, Some(0));
}

/// A network namespace of the host, in which everything is the test's; gone when dropped.
struct Namespace(&'static str);

impl Namespace {
    fn new(name: &'static str) -> Self {
        let namespace = Self(name);
        assert!(Command::new("ip").args(["netns", "add", name]).status().unwrap().success());
        namespace.said(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// A command in it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.0]).args(words);
        command
    }

    #[track_caller]
    fn said(&self, words: &[&str]) -> String {
        let ran = run(self.command(words));
        assert_eq!(ran.status, Some(0), "{words:?}: {ran:?}");
        ran.out
    }

    /// Everything of the network that can be left: links, addresses, routes, rules, sockets.
    fn traces(&self) -> String {
        ["ip -o link", "ip -o address", "ip route", "nft list ruleset", "ss -Hantup"]
            .map(|command| format!("{command}:\n{}", self.said(&command.split(' ').collect::<Vec<_>>())))
            .concat()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell of an error.
        Command::new("ip").args(["netns", "delete", self.0]).status().ok();
    }
}

#[test]
fn nothing_of_a_network_is_left() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let host = Namespace::new("rvm-left");
    let before = host.traces();
    let in_namespace = |arguments: &[&str]| {
        // `ip netns exec` mounts what is the namespace's; the variables are the place's.
        let rvm = place.rvm(arguments);
        let mut command = host.command(&[rvm.get_program().to_str().unwrap()]);
        command.args(rvm.get_args()).current_dir(rvm.get_current_dir().unwrap()).stdin(Stdio::null());
        command.envs(rvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(command)
    };

    let ran =
        in_namespace(&["run", "--rm", "-p", "127.0.0.1:8099:80", &busybox, "ip", "address", "show", "eth0"]);
    assert!(ran.status == Some(0) && ran.out.contains("inet "), "{ran:?}");
    assert_eq!(host.traces(), before);

    // A supervisor and a VMM that were killed leave it to the next that looks.
    let ran =
        in_namespace(&["run", "-d", "--name", "box", "-p", "127.0.0.1:8099:80", &busybox, "sleep", "1000"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_ne!(host.traces(), before);
    super::killed::kill_all(&place);
    let ran = in_namespace(&["rm", "-f", "box"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(host.traces(), before);
}
