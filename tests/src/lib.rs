//! What the end-to-end tests and benchmarks stand on: where the programs under test are, which KVM is real, and
//! how a test says that it could not run.
//!
//! Tests run in the lab (`tests/lab`) or, where the machine's own KVM is real, directly on it; see docs/testing.md.
//! The programs that start the lab and run the tests are in `src/bin/lab`.

pub mod artifact;
pub mod commands;
pub mod daemon;
pub mod file_work;
pub mod guest;
pub mod kvm;
pub mod oci;
pub mod tasks;
pub mod workload;

/// What a test that cannot run prints before its reason, at the start of a line.
pub const CANNOT_RUN: &str = "rvm-tests: cannot run: ";

/// Tells the runner that this test cannot run here and why; the test must return right after.
///
/// Such a test is counted as skipped and named with its reason at the end of the run. It is for what the machine
/// lacks (a program, a kernel feature), not for what the project lacks.
///
/// ```
/// # fn a_test() {
/// if !std::path::Path::new("/dev/vhost-net").exists() {
///     return rvm_tests::cannot_run("this host has no /dev/vhost-net");
/// }
/// # }
/// ```
pub fn cannot_run(reason: &str) {
    // libtest may have begun a line that is not ours.
    println!("\n{CANNOT_RUN}{}", reason.replace('\n', " "));
}

/// The reason in a line written by [`cannot_run`].
pub fn reason_in(line: &str) -> Option<&str> {
    line.strip_prefix(CANNOT_RUN)
}
