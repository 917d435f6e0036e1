//! `lab test`: the workspace's tests, each where it belongs.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use rvm_tests::artifact;

use crate::labs;
use crate::protocol::Plan;
use crate::report::Report;
use crate::runner::{self, Ended};
use crate::suite::{self, Program};
use crate::systems::{self, System};
use crate::visit;

/// The target whose tests need KVM.
pub const E2E: &str = "e2e";

/// The harness's own material: tests that go wrong, in every way there is. They run only where they are asked for.
pub const CASES: &str = "cases";

#[derive(Args)]
pub struct TestArgs {
    /// Only tests whose name ("suite test") contains one of these.
    filters: Vec<String>,
    /// Only this test target of rvm-tests (e2e: the end-to-end tests).
    #[arg(long)]
    target: Option<String>,
    /// Use the lab even where this machine's KVM is real.
    #[arg(long)]
    lab: bool,
    /// Seconds after which one test is killed.
    #[arg(long, default_value_t = 600)]
    test_timeout: u64,
    /// Seconds after which the lab is stopped.
    #[arg(long, default_value_t = 3600)]
    pub timeout: u64,
    /// Seconds without a sign of life after which the lab counts as hung.
    #[arg(long, default_value_t = 120)]
    pub silence: u64,
    /// How many labs are tried, one after the other, for the tests that a lab lost: QEMU's emulation of nested
    /// virtualization now and then takes a lab down with it.
    #[arg(long, default_value_t = 1)]
    pub labs: u32,
    /// Give a test that failed in the lab one more try, alone in a new lab, and say so at the end: the same emulation
    /// now and then takes down a guest, and with it the test.
    #[arg(long)]
    pub second_try: bool,
}

/// Runs the workspace's tests; the status is 0 if none failed.
pub fn test(arguments: &TestArgs) -> io::Result<i32> {
    let start = Instant::now();
    // The tests of a target that `cargo test` leaves out (`test = false`) are found only by name.
    let mut build = vec!["test", "--no-run", "--workspace"];
    match &arguments.target {
        Some(target) => build.extend(["--test", target]),
        None => build.extend(["--lib", "--bins", "--test", "*"]),
    }
    let mut programs = suite::build(&build)?;
    if arguments.target.is_none() {
        programs.retain(|program| program.target != CASES);
    }
    let (need_kvm, ordinary): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| [E2E, CASES].contains(&program.target.as_str()));
    let mut report = Report::default();

    let plan = arguments.plan(&ordinary, &mut report)?;
    if !plan.tests.is_empty() {
        println!("{} tests on this machine", plan.tests.len());
        // Those that take long wait for labs.
        let plan = Plan { jobs: 2 * plan.jobs, ..plan };
        test_here(&plan, &[], &mut report);
    }
    let plan = arguments.plan(&need_kvm, &mut report)?;
    if !plan.tests.is_empty() {
        let why_lab = if arguments.lab { Err("asked for".into()) } else { rvm_tests::kvm::real() };
        match why_lab {
            Ok(()) => test_on_own_kvm(plan, &mut report)?,
            Err(reason) => {
                println!("{} end-to-end tests in the nested lab ({reason})", plan.tests.len());
                labs::test(&need_kvm, plan, arguments, &mut report)?;
            }
        }
    }
    println!("\nall of it took {} s", start.elapsed().as_secs());
    Ok(i32::from(!report.finish()))
}

impl TestArgs {
    /// The tests of these programs that the filters let through.
    fn plan(&self, programs: &[Program], report: &mut Report) -> io::Result<Plan> {
        let mut tests = Vec::new();
        for program in programs {
            let listed = runner::list(&program.suite, &program.file, &program.directory)?;
            let (again, nameless) = systems::on_stable(&program.target, &listed);
            for filter in nameless {
                let name = format!("{}{} {filter}", program.suite, System::Stable.suffix());
                report.missing(name, "no test has this in its name: see tests/src/bin/lab/systems.rs".into());
            }
            for (test, ignored) in listed.into_iter().chain(again) {
                let name = test.full_name();
                if !self.filters.is_empty() && !self.filters.iter().any(|filter| name.contains(filter)) {
                    continue;
                }
                if ignored {
                    report.skip(name, "marked #[ignore]".into());
                } else {
                    tests.push(test);
                }
            }
        }
        let jobs = std::thread::available_parallelism()?.get();
        Ok(Plan { tests, jobs, timeout: self.test_timeout })
    }
}

fn test_here(plan: &Plan, env: &[(String, String)], report: &mut Report) {
    let report = Mutex::new(report);
    runner::run(plan, env, &runner::in_order(plan), &|Ended { test, outcome, time, output }| {
        if let Some(test) = plan.tests.get(test) {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(test, outcome, time, &output);
        }
    });
}

/// Gives the tests what the lab would give them. Those of another system than this machine's cannot run.
fn test_on_own_kvm(mut plan: Plan, report: &mut Report) -> io::Result<()> {
    let elsewhere = plan.tests.extract_if(.., |test| test.system != System::Testing);
    for test in elsewhere {
        let reason = format!("this machine's own KVM is used, and {} is only in a lab", test.system);
        report.skip(test.full_name(), reason);
    }
    println!("{} end-to-end tests on this machine's KVM", plan.tests.len());
    if plan.tests.is_empty() {
        return Ok(());
    }
    let directory = tempfile::Builder::new().prefix("rvm-test-").tempdir()?;
    // Tests write to their disks, and the cache must not see it.
    let debian = directory.path().join("debian.ext4");
    let copied = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([&debian_image()?, &debian])
        .status()?;
    if !copied.success() {
        return Err(io::Error::other(format!("cannot copy the Debian disk to {}", debian.display())));
    }
    let out = directory.path().join("out");
    fs::create_dir(&out)?;
    let env = [
        (artifact::disk_variable("debian"), debian.display().to_string()),
        (artifact::disk_variable("images"), container_images()?.display().to_string()),
        ("RVM_OUT".to_owned(), out.display().to_string()),
    ];
    test_here(&plan, &env, report);
    Ok(())
}

/// A stock Debian on a disk.
pub fn debian_image() -> io::Result<PathBuf> {
    Ok(visit::image("debian")?.join("debian.ext4"))
}

/// Container images, which tests only read.
pub fn container_images() -> io::Result<PathBuf> {
    Ok(visit::image("images")?.join("images.ext4"))
}
