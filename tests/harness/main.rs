//! The harness's own test: runs tests that go wrong on purpose (`tests/cases`) and commands in labs, and looks at
//! what comes out. It runs on the outside, and in labs even where KVM is real, because some cases take theirs down.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::process::{Command, Output};

fn lab(arguments: &[&str]) -> (Output, String) {
    // The logs of labs that end badly stay in their temporary directory; here that is wanted of many.
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(arguments)
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Shown when this test fails; not at the start of a line, where the runner would take it for our own.
    for line in text.lines().chain(String::from_utf8_lossy(&output.stderr).lines()) {
        println!("| {line}");
    }
    (output, text)
}

/// Runs the cases whose name has `filter` in it, with these limits.
fn cases(filter: &str, limits: &[&str]) -> (Output, String) {
    lab(&[["test", "--lab", "--target", "cases", filter].as_slice(), limits].concat())
}

/// The lines of the summary: what stands after the name of this case.
fn told_of<'a>(text: &'a str, case: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(&format!("  cases {case}: "))).collect()
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn every_outcome_of_a_test_is_told_apart() {
    let (output, text) = cases("outcome::", &["--test-timeout", "10"]);

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&text), "2 passed, 6 failed, 1 skipped");
    assert_eq!(told_of(&text, "outcome::cannot_run"), ["there is no such machine"]);
    assert_eq!(told_of(&text, "outcome::fails"), ["panicked"]);
    assert_eq!(told_of(&text, "outcome::fails_after_saying_that_it_cannot_run"), ["panicked"]);
    assert_eq!(told_of(&text, "outcome::leaves_before_it_has_a_result"), ["ended without a result"]);
    assert_eq!(told_of(&text, "outcome::dies_of_a_signal"), ["killed by signal 6"]);
    assert_eq!(told_of(&text, "outcome::never_ends"), ["killed after 10 s"]);
    for shown in ["arithmetic still works", "the words before the wait", "the first line", "the last line"] {
        assert!(text.contains(shown), "{shown:?} is not in the output");
    }
    assert!(text.len() < 1 << 20, "{} bytes of output", text.len());
}

#[test]
fn a_second_try_is_a_new_lab_and_is_told() {
    let (output, text) = cases("together::", &["--second-try"]);

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(last_line(&text), "2 passed, 0 failed, 0 skipped");
    assert!(text.contains("passed, but only at the second try"), "not a word of the second try");
    assert_eq!(told_of(&text, "together::trips_over_it"), ["panicked"]);
}

#[test]
fn what_fails_twice_has_failed() {
    let (output, text) = cases("outcome::fails", &["--second-try"]);

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&text), "0 passed, 2 failed, 0 skipped");
    assert_eq!(text.matches("arithmetic still works").count(), 2);
}

#[test]
fn a_test_of_two_systems_runs_in_a_lab_of_each_and_is_told_apart() {
    let (output, text) = cases("system::", &["--second-try"]);

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&text), "1 passed, 1 failed, 0 skipped");
    assert!(text.contains("  cases-stable system::is_debian_testing: panicked"), "not told of Debian stable");
    assert_eq!(text.matches("VERSION_CODENAME=trixie").count(), 2, "runs of the test on Debian stable");
    let labs = |system: &str| text.matches(&format!("a lab of Debian {system} is up")).count();
    assert_eq!(
        (labs("testing"), labs("stable")),
        (1, 2),
        "its second try is in a new lab of the same system"
    );
}

/// The lab ends in the middle of `case`: that it fails, and why, is said of the case and of the lab.
fn check_a_lost_lab(case: &str, limits: &[&str], why: &str) {
    let (output, text) = cases(case, limits);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&text), "0 passed, 2 failed, 0 skipped");
    let told = told_of(&text, case);
    assert!(told.len() == 1 && told[0].contains("while it ran") && told[0].contains(why), "{told:?}");
}

#[test]
fn a_panic_of_the_labs_kernel_is_a_failure() {
    check_a_lost_lab("lab::panics_the_kernel", &[], "Kernel panic");
}

#[test]
fn the_death_of_the_runner_is_a_failure() {
    check_a_lost_lab("lab::kills_the_runner", &[], "the runner inside the lab died");
}

#[test]
fn a_lab_that_hangs_is_a_failure() {
    check_a_lost_lab("lab::stops_the_runner", &["--silence", "20"], "no sign of life for 20 s");
}

#[test]
fn a_command_in_a_deterministic_lab_gives_its_output_files_and_status() {
    let out = tempfile::tempdir().unwrap();
    let script = r#"printf 'out \377'; echo err >&2; echo figures >"$RVM_OUT/file"; exit 7"#;
    let directory = out.path().to_str().unwrap();
    let (output, _) = lab(&["run", "--deterministic", "--out", directory, "--", "sh", "-c", script]);

    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out \xff");
    // Where the lab's images are built first, that is said before.
    assert!(output.stderr.ends_with(b"err\n"), "{:?}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(out.path().join("file")).unwrap(), "figures\n");
}

#[test]
fn a_command_without_end_is_stopped() {
    let (output, _) = lab(&["run", "--timeout", "30", "--", "sleep", "100000"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopped after 30 s"));
}
