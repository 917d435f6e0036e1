//! The console on a terminal: raw while the VM runs, with an escape key, and as it was afterwards.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::image::{self, Elf};
use super::run::{READY, Stream, boot, wait_until_stalled};
use crate::terminal::Terminal;

fn on_terminal(arguments: &[&str]) -> Terminal {
    Terminal::start(boot(arguments), None)
}

#[test]
fn a_shell_is_at_hand() {
    let mut terminal = on_terminal(&[]);
    terminal.screen.wait_for(READY);
    terminal.screen.wait_for("# ");
    assert!(terminal.is_raw());
    terminal.types(b"echo $((6*7))\r");
    terminal.screen.wait_for("\r\n42\r\n");
    // Ctrl-c is the guest's. The word is the command's own, which has the terminal then.
    terminal.types(b"sh -c 'echo up; exec sleep 1000'\r");
    terminal.screen.wait_for("\r\nup\r\n");
    terminal.types(b"\x03");
    terminal.screen.wait_for("# ");
    terminal.types(b"exit 3\r");
    terminal.ends(3);
}

#[test]
fn the_escape_key_has_help_and_an_end() {
    let mut terminal = on_terminal(&[]);
    terminal.screen.wait_for("# ");
    terminal.types(b"\x01h");
    terminal.screen.wait_for("end the VM");
    terminal.types(b"\x01x");
    terminal.ends(0);
}

#[test]
fn the_escape_key_typed_twice_is_the_guests() {
    let mut terminal = on_terminal(&[]);
    terminal.screen.wait_for("# ");
    terminal.types(b"stty raw -echo; echo go; head -c 2 | hexdump -C\r");
    terminal.screen.wait_for("go\n");
    terminal.types(b"\x01\x01z");
    terminal.screen.wait_for("01 7a");
    terminal.types(b"\x01x");
    terminal.ends(0);
}

/// The number of writes to ports, as `Ctrl-a s` tells it.
fn port_writes(terminal: &mut Terminal) -> u64 {
    terminal.types(b"\x01s");
    terminal.screen.wait_for("port writes");
    terminal.screen.wait_for("\n").trim().parse().unwrap()
}

#[test]
fn a_pause_holds_the_guest_until_it_goes_on() {
    let mut terminal = on_terminal(&["--cpus", "2", "--", "sh", "-c", "while :; do echo .; done"]);
    terminal.screen.wait_for(READY);
    terminal.screen.wait_for(".\r\n.\r\n");
    terminal.types(b"\x01p");
    terminal.screen.wait_for("[paused");
    let held = port_writes(&mut terminal);
    assert_eq!(port_writes(&mut terminal), held);
    assert_eq!(port_writes(&mut terminal), held);

    terminal.types(b"\x01p");
    terminal.screen.wait_for("[running]");
    terminal.screen.wait_for(".\r\n.\r\n");
    terminal.types(b"\x01p");
    terminal.screen.wait_for("[paused");
    // Asked for while the guest writes, they would have its words in between.
    assert!(port_writes(&mut terminal) > held);
    // Paused or not, it ends.
    terminal.types(b"\x01x");
    terminal.ends(0);
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGQUIT, 131)] {
        let mut terminal = on_terminal(&[]);
        terminal.screen.wait_for("# ");
        assert!(terminal.is_raw());
        terminal.signal(signal);
        terminal.ends(status);
    }
}

#[test]
fn a_guest_that_ends_badly_leaves_the_terminal_as_it_was() {
    let mut terminal = on_terminal(&["--", "reboot", "-f"]);
    terminal.ends(90);
    let mut terminal = on_terminal(&["--cmdline", "rdinit=/nonexistent"]);
    terminal.ends(91);
}

#[test]
fn a_vm_that_cannot_be_made_leaves_the_terminal_as_it_was() {
    let mut terminal = on_terminal(&["--kernel", "/etc/passwd"]);
    terminal.ends(23);
}

#[test]
fn the_escape_key_is_heard_when_the_guest_does_not_read() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kernel");
    let halt = vec![0xfa, 0xf4]; // cli; hlt
    fs::write(&path, image::elf(&Elf { code: halt, ..Elf::default() })).unwrap();
    let mut terminal = on_terminal(&["--kernel", path.to_str().unwrap()]);
    while !terminal.is_raw() {
        crate::process::pause();
    }
    terminal.types(&[b'x'; 1000]);
    terminal.types(b"\x01h");
    terminal.screen.wait_for("end the VM");
    terminal.types(b"\x01x");
    terminal.ends(0);
}

#[test]
fn answers_wait_for_a_screen_that_takes_no_more() {
    let mut terminal = on_terminal(&[]);
    terminal.screen.wait_for("# ");
    terminal.fill();
    terminal.types(b"\x01p\x01h\x01s");
    // Nobody reads before rvm has answered.
    terminal.wait_until_errors_wait();
    terminal.screen.wait_for("[paused");
    terminal.screen.wait_for("end the VM");
    terminal.screen.wait_for("port writes");
    terminal.types(b"\x01x");
    terminal.ends(0);
}

#[test]
fn a_screen_that_takes_no_more_does_not_keep_rvm_from_ending() {
    let (error, its_error) = std::io::pipe().unwrap();
    let mut terminal = Terminal::start(boot(&["--", "seq", "1", "1000000"]), Some(its_error.into()));
    terminal.screen.wait_for(READY);
    // From here on nobody reads what comes to the screen.
    wait_until_stalled(&mut Stream::new(error), || terminal.signal(Signal::SIGUSR1));
    terminal.signal(Signal::SIGTERM);
    terminal.ends(143);
}
