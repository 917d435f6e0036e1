//! What the guest image promises (docs/guest-image.md): exit codes, its file systems, its end.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::process::{Command, Stdio};

use rvm_tests::artifact;

/// What a guest did that ran one command.
struct Ran {
    /// The exit status of `rvm boot`.
    status: Option<i32>,
    /// The lines on its console.
    console: String,
}

/// Runs `words` in a guest, with more options for `rvm boot`.
fn boot_with(options: &[&str], words: &[&str]) -> Ran {
    let mut command = Command::new(artifact::rvm());
    command.arg("boot").args(options).arg("--").args(words);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    Ran { status: output.status.code(), console }
}

/// Runs a shell script of one line in a guest.
fn shell(script: &str) -> Ran {
    boot_with(&[], &["sh", "-c", script])
}

#[test]
fn the_exit_code_of_the_command_is_that_of_rvm() {
    for code in [0, 7, 255] {
        let ran = shell(&format!("exit {code}"));
        assert_eq!(ran.status, Some(code), "{}", ran.console);
    }
}

#[test]
fn a_command_ended_by_a_signal_gives_128_and_the_signal() {
    let ran = shell("kill -SEGV $$");
    assert_eq!(ran.status, Some(139), "{}", ran.console);
}

#[test]
fn a_command_that_cannot_run_gives_127_or_126_and_says_why() {
    let missing = boot_with(&[], &["nosuchcommand"]);
    assert_eq!(missing.status, Some(127), "{}", missing.console);
    assert!(missing.console.contains("cannot run nosuchcommand: No such file"), "{}", missing.console);

    let no_program = boot_with(&[], &["/etc/passwd"]);
    assert_eq!(no_program.status, Some(126), "{}", no_program.console);
    assert!(no_program.console.contains("cannot run /etc/passwd: Permission"), "{}", no_program.console);
}

#[test]
fn the_bare_image_has_no_shell_and_says_so() {
    let image = artifact::bare_initramfs();
    let ran = boot_with(&["--initrd", image.to_str().unwrap()], &[]);
    assert_eq!(ran.status, Some(127), "{}", ran.console);
    assert!(ran.console.contains("no command given, and no shell"), "{}", ran.console);
}

#[test]
fn the_last_words_of_a_command_reach_the_console() {
    let ran = shell("seq 1 2000; exit 3");
    assert_eq!(ran.status, Some(3));
    assert!(ran.console.contains("\n1999\n2000\n"), "{}", ran.console);
}

#[test]
fn what_the_command_leaves_running_is_ended_with_it() {
    let ran = shell("sleep 1000 & exit 4");
    assert_eq!(ran.status, Some(4), "{}", ran.console);
}

#[test]
fn a_poweroff_from_inside_is_no_failure() {
    let ran = shell("poweroff; exec sleep 1000");
    assert_eq!(ran.status, Some(0), "{}", ran.console);
}

#[test]
fn the_guest_has_what_linux_programs_expect() {
    let ran = shell(
        "set -e; hostname; cat /proc/mounts; ping -c 1 127.0.0.1 >/dev/null; echo x >/dev/tty; tty; \
         test -d /proc/self/fd; readlink /dev/fd; touch /run/a /tmp/a /dev/shm/a; echo $HOME $PATH; ls /sys/fs/cgroup",
    );
    assert_eq!(ran.status, Some(0), "{}", ran.console);
    for expected in [
        "\nrvm\n",
        "\ndevtmpfs /dev devtmpfs ",
        "\nproc /proc proc ",
        "\nsysfs /sys sysfs ",
        "\ncgroup2 /sys/fs/cgroup cgroup2 ",
        "\ndevpts /dev/pts devpts ",
        "\ntmpfs /dev/shm tmpfs ",
        "\ntmpfs /run tmpfs ",
        "\ntmpfs /tmp tmpfs ",
        "\n/dev/console\n",
        "\n/proc/self/fd\n",
        "\n/root /usr/local/sbin:",
        "cgroup.controllers",
    ] {
        assert!(ran.console.contains(expected), "{expected:?} is not in:\n{}", ran.console);
    }
}

#[test]
fn the_report_shows_the_machine_that_was_asked_for() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    File::set_len(disk.as_file(), 8 << 20).unwrap();
    let disk = format!("{},ro", disk.path().display());
    let ran = boot_with(&["--cpus", "2", "--memory", "256M", "--disk", &disk], &["guest-report"]);
    assert_eq!(ran.status, Some(0), "{}", ran.console);
    let row = |name: &str| {
        let mut rows = ran.console.lines().filter(|line| line.split(' ').next() == Some(name));
        rows.next().unwrap_or_else(|| panic!("no row {name} in:\n{}", ran.console)).to_owned()
    };
    assert!(row("kernel").contains(" Linux 6."), "{}", ran.console);
    assert!(row("cpus").contains(" 2 x "), "{}", ran.console);
    assert!(row("block").ends_with(" vda: 8 MiB, read-only"), "{}", ran.console);
    assert!(row("network").ends_with(" none"), "{}", ran.console);
    let memory = row("memory");
    let mib: u32 = memory.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((200..256).contains(&mib), "{memory}");
}
