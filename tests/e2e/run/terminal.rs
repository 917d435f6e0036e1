//! `rvm run -it` and `rvm exec -it` on a terminal.

use super::place::{Place, image};
use crate::process::Running;
use crate::terminal::Terminal;

#[test]
fn a_shell_is_interactive() {
    let place = Place::with(&["busybox"]);
    let mut terminal = Terminal::start(place.rvm(&["run", "--rm", "-it", &image("busybox")]), None);
    terminal.screen.wait_for("# ");
    assert!(terminal.is_raw());
    terminal.types(b"echo $((6*7)); tty\r");
    terminal.screen.wait_for("\r\n42\r\n");
    terminal.screen.wait_for("/dev/pts/0");
    // Ctrl-c is the container's. The word is the command's own, which has the terminal then.
    terminal.types(b"sh -c 'echo up; exec sleep 1000'\r");
    terminal.screen.wait_for("\r\nup\r\n");
    terminal.types(b"\x03");
    terminal.screen.wait_for("# ");
    terminal.types(b"exit 3\r");
    terminal.ends(3);
}

#[test]
fn the_containers_terminal_is_as_large_as_this_one() {
    let place = Place::with(&["busybox"]);
    let script = "trap 'stty size; exit 7' WINCH; stty size; while :; do sleep 0.1; done";
    let command = place.rvm(&["run", "--rm", "-it", &image("busybox"), "sh", "-c", script]);
    let mut terminal = Terminal::start(command, None);
    terminal.screen.wait_for("24 80");
    terminal.resize(33, 77);
    terminal.screen.wait_for("33 77");
    terminal.ends(7);
}

#[test]
fn exec_gives_a_second_terminal() {
    let place = Place::with(&["busybox"]);
    place.said(&["run", "-d", "--name", "box", &image("busybox"), "sleep", "1000"]);
    let mut terminal = Terminal::start(place.rvm(&["exec", "-it", "box", "sh"]), None);
    terminal.screen.wait_for("# ");
    terminal.types(b"ps | grep -c '[s]leep 1000'\r");
    terminal.screen.wait_for("\r\n1\r\n");
    terminal.types(b"exit 9\r");
    terminal.ends(9);
}

#[test]
fn a_terminal_is_asked_of_what_is_none() {
    let place = Place::with(&["busybox"]);
    let running: Running = place.start(&["run", "--rm", "-it", &image("busybox"), "true"]);
    let ran = running.end();
    assert_eq!((ran.status, ran.out.as_str()), (Some(125), ""), "{ran:?}");
    assert!(ran.error.contains("terminal") && ran.error.lines().count() == 1, "{ran:?}");
}
