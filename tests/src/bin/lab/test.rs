//! `lab test`: the workspace's tests, each where it belongs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use rvm_tests::artifact;

use crate::machine::End;
use crate::protocol::{Message, Outcome, PAYLOAD, Plan, Test, Work};
use crate::report::Report;
use crate::runner::{self, Event};
use crate::suite::{self, Program};
use crate::visit::{self, Surroundings, Visit};

/// The target whose tests need KVM.
const E2E: &str = "e2e";

/// The harness's own material: tests that go wrong, in every way there is. They run only where they are asked for.
const CASES: &str = "cases";

/// How many tests the lab runs at a time.
const LAB_JOBS: usize = 3;

/// How many tests get a second try at most. What breaks more than these is not the emulation.
const SECOND_TRIES: usize = 16;

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
    #[arg(long, default_value_t = 300)]
    test_timeout: u64,
    /// Seconds after which the lab is stopped.
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// Seconds without a sign of life after which the lab counts as hung.
    #[arg(long, default_value_t = 120)]
    silence: u64,
    /// How many labs are tried, one after the other, for the tests that a lab lost: QEMU's emulation of nested
    /// virtualization now and then takes a lab down with it.
    #[arg(long, default_value_t = 1)]
    labs: u32,
    /// Give a test that failed in the lab one more try, alone in a new lab, and say so at the end: the same emulation
    /// now and then takes down a guest, and with it the test.
    #[arg(long)]
    second_try: bool,
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
        test_here(&plan, &[], &mut report);
    }
    let plan = arguments.plan(&need_kvm, &mut report)?;
    if !plan.tests.is_empty() {
        let why_lab = if arguments.lab { Err("asked for".into()) } else { rvm_tests::kvm::real() };
        match why_lab {
            Ok(()) => {
                println!("{} end-to-end tests on this machine's KVM", plan.tests.len());
                test_on_own_kvm(&plan, &mut report)?;
            }
            Err(reason) => {
                println!("{} end-to-end tests in the nested lab ({reason})", plan.tests.len());
                test_in_lab(&need_kvm, plan, arguments, &mut report)?;
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
            for (test, ignored) in runner::list(&program.suite, &program.file, &program.directory)? {
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
    runner::run(plan, env, &|event| {
        if let Event::Ended { test, outcome, time, output } = event
            && let Some(test) = plan.tests.get(test)
        {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(test, outcome, time, &output);
        }
    });
}

/// Gives the tests what the lab would give them.
fn test_on_own_kvm(plan: &Plan, report: &mut Report) -> io::Result<()> {
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
    test_here(plan, &env, report);
    Ok(())
}

fn debian_image() -> io::Result<PathBuf> {
    Ok(visit::image("debian")?.join("debian.ext4"))
}

/// Container images, which tests only read.
pub fn container_images() -> io::Result<PathBuf> {
    Ok(visit::image("images")?.join("images.ext4"))
}

fn test_in_lab(
    programs: &[Program],
    mut plan: Plan,
    arguments: &TestArgs,
    report: &mut Report,
) -> io::Result<()> {
    for test in &mut plan.tests {
        test.program = Path::new(PAYLOAD).join("tests").join(&test.suite);
        test.directory = "/root".into();
    }
    plan.jobs = LAB_JOBS;

    let mut again = Vec::new();
    let lost =
        test_in_labs(programs, &mut plan, arguments, &mut |test, outcome, time, output| match outcome
            .failure(time)
        {
            Some(reason) if arguments.second_try && again.len() < SECOND_TRIES => {
                report.doubt(&test, reason, time, output);
                again.push(test);
            }
            _ => report.add(&test, outcome, time, output),
        })?;
    if let Some(lost) = lost {
        lost.report(report);
    }
    if !again.is_empty() {
        println!("{} tests that failed go to a new lab, one at a time", again.len());
        (plan.tests, plan.jobs) = (again, 1);
        let lost = test_in_labs(programs, &mut plan, arguments, &mut |test, outcome, time, output| {
            report.add(&test, outcome, time, output);
        })?;
        if let Some(lost) = lost {
            lost.report(report);
        }
    }
    Ok(())
}

/// Who hears of a result: the test, its outcome, how long it took, and its output.
type OnResult<'a> = &'a mut dyn FnMut(Test, Outcome, Duration, &str);

/// Runs the tests of `plan` in as many labs as the arguments allow; gives what the last of them lost.
fn test_in_labs(
    programs: &[Program],
    plan: &mut Plan,
    arguments: &TestArgs,
    on_result: OnResult<'_>,
) -> io::Result<Option<Lost>> {
    for left in (0..arguments.labs).rev() {
        let Some(lost) = visit_for(programs, plan, arguments, on_result)? else { break };
        if left == 0 {
            return Ok(Some(lost));
        }
        println!("{}: its {} tests without a result go to a new lab", lost.end, lost.tests.len());
        plan.tests = lost.tests.into_iter().map(|(test, _)| test).collect();
    }
    Ok(None)
}

/// What a lab that did not end in order left without a result.
struct Lost {
    end: End,
    /// Each with whether it was running.
    tests: Vec<(Test, bool)>,
}

impl Lost {
    /// Every test of the plan has a result, or the reason why it has none.
    fn report(self, report: &mut Report) {
        for (test, running) in self.tests {
            let when = if running { "while it ran" } else { "before its turn" };
            report.missing(test.full_name(), format!("{when}: {}", self.end));
        }
        report.missing("the lab itself".into(), self.end.to_string());
    }
}

/// Runs the tests of `plan` in one lab; gives what it lost, if it did not end in order or left results out.
fn visit_for(
    programs: &[Program],
    plan: &Plan,
    arguments: &TestArgs,
    on_result: OnResult<'_>,
) -> io::Result<Option<Lost>> {
    let mut surroundings = Surroundings::for_tests();
    surroundings.disks.push(format!("debian={}", debian_image()?.display()));
    surroundings.disks.push(format!("images={}", container_images()?.display()));
    let mut visit = Visit::prepare(&surroundings)?;
    visit.silence_limit(Duration::from_secs(arguments.silence));
    for program in programs {
        visit.payload.add(&program.file, &format!("tests/{}", program.suite))?;
    }
    let mut waiting: Vec<Option<Test>> = plan.tests.iter().cloned().map(Some).collect();
    let mut running = Vec::new();
    let timeout = Some(Duration::from_secs(arguments.timeout));
    let end = visit.start(Work::Tests(plan.clone()), timeout, &mut |message| match message {
        Message::Up { kernel, millis } => {
            let time = Duration::from_millis(millis);
            println!("the lab is up: Linux {kernel}, {:.1} s", time.as_secs_f64());
        }
        Message::Started { test } => running.push(test),
        Message::Ended { test, outcome, millis, output } => {
            running.retain(|number| *number != test);
            if let Some(test) = waiting.get_mut(test).and_then(Option::take) {
                on_result(test, outcome, Duration::from_millis(millis), &output);
            }
        }
        _ => {}
    })?;
    let lost = waiting.into_iter().enumerate();
    let tests: Vec<_> = lost.filter_map(|(number, test)| Some((test?, running.contains(&number)))).collect();
    Ok((end != End::Done(0) || !tests.is_empty()).then_some(Lost { end, tests }))
}
