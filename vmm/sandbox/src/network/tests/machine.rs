//! Machines of a test: threads in network namespaces of their own, and a cable between a sandbox's tap and one.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::network::{Network, tap};

/// Runs `test` in a network namespace of its own with a loopback interface; where that is not permitted it says so.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return cannot_run(&format!("no network namespace for the test: {error}"));
        }
        for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            if crate::network::program(tool).is_none() {
                return cannot_run(&format!("{tool}(8) is missing (package {package})"));
            }
        }
        run("ip link set lo up");
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The line by which the test runner counts a test that could not run.
pub fn cannot_run(reason: &str) {
    println!("\nrvm-tests: cannot run: {}", reason.replace('\n', " "));
}

/// Runs a command in the namespace of this thread, and gives its output.
pub fn run(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap();
    let program = crate::network::program(program).unwrap();
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

type Job = Box<dyn FnOnce() + Send>;

/// A machine: a thread in a namespace of its own. Sockets made there belong to it wherever they are used.
pub struct Machine {
    jobs: mpsc::Sender<Job>,
    /// By which ip(8) finds its namespace.
    pub thread: i32,
    card: Option<File>,
    _thread: JoinHandle<()>,
}

impl Machine {
    pub fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (to_us, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            to_us.send(gettid().as_raw()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs, thread: id.recv().unwrap(), card: None, _thread: thread }
    }

    /// Does `work` on the machine.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (to_us, done) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(to_us.send(work())))).unwrap();
        done.recv().expect("the work on the machine fails")
    }

    /// A machine on the network of a sandbox, set up as the agent would.
    pub fn guest(network: &Network) -> Self {
        let address = network.interfaces[0].addresses[0].clone();
        let guest = Self::with_card(&network.interfaces[0].mac, &address, &network.routes[0].gateway);
        let tap: File = network.descriptor().unwrap().try_clone_to_owned().unwrap().into();
        guest.cable(tap);
        guest
    }

    /// Joins its card and another tap.
    pub fn cable(&self, tap: File) {
        connect(tap.try_clone().unwrap(), self.card());
        connect(self.card(), tap);
    }

    /// A machine with a card and a way out through it.
    pub fn with_card(mac: &str, address: &str, gateway: &str) -> Self {
        let mut guest = Self::new();
        let setup = [
            format!("ip link set eth0 address {mac}"),
            format!("ip address add {address} dev eth0"),
            "ip link set eth0 up".into(),
            format!("ip route add default via {gateway}"),
        ];
        let card = guest.run(move || {
            let card = tap::make("eth0").unwrap();
            setup.iter().for_each(|command| drop(run(command)));
            card
        });
        guest.card = Some(card.into());
        guest
    }

    /// The other side of its card: a tap.
    pub fn card(&self) -> File {
        self.card.as_ref().expect("it has a card").try_clone().unwrap()
    }

    /// A machine that the host reaches: it is 198.51.100.1, the host 198.51.100.2 there.
    pub fn outside() -> Self {
        let outside = Self::new();
        run("ip link add uplink type veth peer name out");
        run(&format!("ip link set out netns {}", outside.thread));
        run("ip address add 198.51.100.2/24 dev uplink");
        run("ip link set uplink up");
        outside.run(|| {
            run("ip address add 198.51.100.1/24 dev out");
            run("ip link set out up");
        });
        outside
    }
}

/// Carries packets from tap to tap, as a VMM does, while both are there.
fn connect(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut packet = vec![0; 70_000];
        while let Ok(length) = from.read(&mut packet) {
            // A tap that is down loses packets.
            let _ = to.write(&packet[..length]);
        }
    });
}
