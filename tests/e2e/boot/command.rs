//! A command in the guest: what it gets, and how its end becomes rvm's.

use super::run::{boot, guest, run, said_by};

#[test]
fn its_output_comes_out_and_its_exit_code_is_rvms() {
    for code in [0, 7, 255] {
        let ran = guest(&[], &format!("echo $((6*7)); exit {code}"));
        assert_eq!(ran.said(), "42\n");
        assert_eq!((ran.status, ran.error.as_str()), (Some(code), ""));
    }
}

#[test]
fn the_end_by_a_signal_is_told_as_a_shell_tells_it() {
    assert_eq!(guest(&[], "kill -KILL $$").status, Some(137));
    assert_eq!(guest(&[], "kill -TERM $$").status, Some(143));
}

#[test]
fn what_cannot_be_run_is_told_as_a_shell_tells_it() {
    let ran = run(boot(&["--", "no-such-program"]));
    assert_eq!(ran.status, Some(127), "{ran:?}");
    assert!(ran.said().starts_with("rvm-agent: cannot run no-such-program: "), "{ran:?}");
    let ran = run(boot(&["--", "/proc/version"]));
    assert_eq!(ran.status, Some(126), "{ran:?}");
}

#[test]
fn its_arguments_arrive_as_they_were_given() {
    let arguments = ["a b", "", "it's", "$HOME", "x=y", r"back\slash", "-n", "--cpus", "#", "a  b", ";"];
    let ran = run(boot(&[["--", "printf", "<%s>\\n"].as_slice(), &arguments].concat()));
    assert_eq!(ran.said(), arguments.map(|argument| format!("<{argument}>\n")).concat());
}

#[test]
fn as_many_arguments_arrive_as_are_accepted() {
    let arguments = [["--", "sh", "-c", "echo $# ${28}", "sh"].as_slice(), &["x"; 26], &["y"]].concat();
    assert_eq!(run(boot(&arguments)).said(), "27\n");
    let arguments = [["--", "sh", "-c", "echo $# ${27}", "sh"].as_slice(), &["x"; 26], &["y"]].concat();
    assert_eq!(run(boot(&arguments)).said(), "27 y\n");
}

/// The command line that the guest's kernel got, behind the words that it brought itself.
fn cmdline(arguments: &[&str]) -> String {
    let said = said_by(arguments, "cat /proc/cmdline");
    let (_, line) = said.split_once("console=").unwrap();
    format!("console={line}")
}

#[test]
fn words_of_the_command_line_follow_rvms_own() {
    let line = cmdline(&["--cmdline", "loglevel=3 mine=1"]);
    let (kernels, command) = line.split_once(" -- ").unwrap();
    assert!(kernels.starts_with("console=ttyS0 quiet "), "{line}");
    assert!(kernels.ends_with(" loglevel=3 mine=1"), "{line}");
    assert_eq!(command, "sh -c \"cat /proc/cmdline\"\n");
}

#[test]
fn a_bare_command_line_is_the_users_alone() {
    let own = "console=ttyS0 quiet mine=1";
    assert_eq!(
        cmdline(&["--bare-cmdline", "--cmdline", own]),
        format!("{own} -- sh -c \"cat /proc/cmdline\"\n")
    );
}
