//! The console on pipes and files: nothing is lost, and neither side waits for the other more than it must.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use super::run::{READY, Ran, Running, boot, guest, run, wait_until_stalled};

/// Bytes of every value, Ctrl-a included: only a terminal has an escape key.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from((index * 7 + index / 256) % 256).unwrap()).collect()
}

fn md5(bytes: &[u8]) -> String {
    let mut md5sum = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    md5sum.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(md5sum.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn input_reaches_the_guest_byte_for_byte() {
    const LENGTH: usize = 20_000;
    let script = format!("stty raw -echo; echo go; head -c {LENGTH} | md5sum");
    let mut command = boot(&["--", "sh", "-c", &script]);
    command.stdin(Stdio::piped());
    let mut running = Running::ready(command);
    running.out.wait_for("go\n");
    // Much more than the port, rvm and the pipe hold: it goes as fast as the guest reads.
    let sent = bytes(LENGTH);
    running.input().write_all(&sent).unwrap();
    let ran = running.end();
    assert!(ran.tail().ends_with(&md5(&sent)), "{ran:?}");
    assert_eq!(ran.status, Some(0));
}

/// What a shell in the guest, which is the default, makes of `input`.
fn shell(input: Stdio) -> Ran {
    let mut command = boot(&[]);
    command.stdin(input);
    run(command)
}

#[test]
fn a_script_on_standard_input_is_run_by_the_guests_shell() {
    let script = "echo $((6*7))\nexit 5\n";
    let (pipe, mut writer) = std::io::pipe().unwrap();
    writer.write_all(script.as_bytes()).unwrap();
    drop(writer);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("script");
    fs::write(&path, script).unwrap();
    for input in [pipe.into(), File::open(&path).unwrap().into()] {
        let ran = shell(input);
        // The terminal's echo comes as early as the kernel reads.
        assert!(ran.out.contains("\n42\n"), "{ran:?}");
        assert_eq!((ran.status, ran.error.as_str()), (Some(5), ""));
    }
}

#[test]
fn the_end_of_input_is_not_the_guests() {
    let mut command = boot(&["--", "sh", "-c", "echo on; read line; echo $line; exit 4"]);
    command.stdin(Stdio::piped());
    let mut running = Running::ready(command);
    let mut input = running.input();
    running.out.wait_for("on");
    input.write_all(b"last\n").unwrap();
    drop(input);
    let ran = running.end();
    assert!(ran.tail().ends_with("last\nlast\n"), "{ran:?}");
    assert_eq!(ran.status, Some(4));
}

/// The numbers that a guest prints to flood the console: more than rvm keeps.
const NUMBERS: usize = 14_000;

fn flood() -> String {
    (1..=NUMBERS).map(|number| format!("{number}\n")).collect()
}

#[test]
fn output_waits_for_a_reader_who_is_slow() {
    let script = format!("seq 1 {NUMBERS}; exit 6");
    let mut running = Running::ready(boot(&["--", "sh", "-c", &script]));
    // As little in the pipe as possible.
    fcntl(running.out.file(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let rvm = running.pid();
    wait_until_stalled(&mut running.error, || kill(rvm, Signal::SIGUSR1).unwrap());
    let ran = running.end();
    assert!(ran.tail().ends_with(&format!("\n{}", flood())), "{} bytes came", ran.out.len());
    assert_eq!(ran.status, Some(6));
}

#[test]
fn a_reader_who_has_gone_does_not_stop_the_guest() {
    let mut command = boot(&["--", "sh", "-c", "read line; seq 1 1000; exit 6"]);
    command.stdin(Stdio::piped());
    let mut running = Running::ready(command);
    let mut input = running.input();
    running.close_output();
    input.write_all(b"go\n").unwrap();
    assert_eq!(running.end().status, Some(6));
}

#[test]
fn standard_streams_that_are_closed_are_done_without() {
    let rvm = boot(&["--", "sh", "-c", "echo unheard; exit 6"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$@" <&- >&- 2>&-"#, "sh"]).arg(rvm.get_program()).args(rvm.get_args());
    assert_eq!(run(shell).status, Some(6));
}

#[test]
fn the_console_goes_to_a_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("console");
    fs::write(&path, "old ".repeat(1000)).unwrap();
    let console = format!("file={}", path.display());
    let ran = guest(&["--console", &console], "echo $((6*7))");
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "", ""));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(READY) && text.contains("\n42\r\n"), "{text}");
}

#[test]
fn the_console_goes_nowhere() {
    let ran = guest(&["--console", "none"], "echo $((6*7)); exit 3");
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(3), "", ""));
}

#[test]
fn the_callers_output_keeps_its_mode() {
    // Other programs share it, and do not expect it to be non-blocking afterwards.
    let running = Running::ready(boot(&["--", "true"]));
    let flags = fs::read_to_string(running.proc("fdinfo/1")).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    let flags = i32::from_str_radix(flags, 8).unwrap();
    assert_eq!(flags & nix::fcntl::OFlag::O_NONBLOCK.bits(), 0);
    assert_eq!(running.end().status, Some(0));
}
