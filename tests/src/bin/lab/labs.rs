//! Tests in labs: as many labs at a time as this machine has processors, each with a part of the tests. What a lab loses
//! goes to a new one, and what fails gets a second try.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::machine::{self, End};
use crate::protocol::{Message, Outcome, PAYLOAD, Plan, Test, Work};
use crate::report::Report;
use crate::suite::Program;
use crate::test::{TestArgs, container_images, debian_image};
use crate::visit::{Surroundings, Visit};

/// How many tests a lab runs at a time: while one waits, the other has the processor.
const JOBS: usize = 2;

/// Labs at a time at most: each has memory of its own.
const MOST_LABS: usize = 4;

/// How many tests get a second try at most. What breaks more than these is not the emulation.
const SECOND_TRIES: usize = 16;

/// Runs the tests of `plan`, which are in these programs, in labs.
pub fn test(
    programs: &[Program],
    mut plan: Plan,
    arguments: &TestArgs,
    report: &mut Report,
) -> io::Result<()> {
    for test in &mut plan.tests {
        test.program = Path::new(PAYLOAD).join("tests").join(&test.suite);
        test.directory = "/root".into();
    }
    plan.jobs = JOBS;
    let at_a_time = std::thread::available_parallelism()?.get().min(MOST_LABS);

    let mut again = Vec::new();
    let lost =
        in_labs(programs, &mut plan, at_a_time, arguments, &mut |test, outcome, time, output| match outcome
            .failure(time)
        {
            Some(reason) if arguments.second_try && again.len() < SECOND_TRIES => {
                report.doubt(&test, reason, time, output);
                again.push(test);
            }
            _ => report.add(&test, outcome, time, output),
        })?;
    lost.into_iter().for_each(|lost| lost.report(report));
    if !again.is_empty() {
        println!("{} tests that failed go to a new lab, one at a time", again.len());
        (plan.tests, plan.jobs) = (again, 1);
        let lost = in_labs(programs, &mut plan, 1, arguments, &mut |test, outcome, time, output| {
            report.add(&test, outcome, time, output);
        })?;
        lost.into_iter().for_each(|lost| lost.report(report));
    }
    Ok(())
}

/// Who hears of a result: the test, its outcome, how long it took, and its output.
type OnResult<'a> = &'a mut (dyn FnMut(Test, Outcome, Duration, &str) + Send);

/// Runs the tests of `plan` in labs, some at a time, and what these lose in others, as often as the arguments allow;
/// gives what the last ones lost.
fn in_labs(
    programs: &[Program],
    plan: &mut Plan,
    at_a_time: usize,
    arguments: &TestArgs,
    on_result: OnResult<'_>,
) -> io::Result<Vec<Lost>> {
    for left in (0..arguments.labs).rev() {
        let lost = visit_some(programs, plan, at_a_time, arguments, on_result)?;
        if lost.is_empty() || left == 0 {
            return Ok(lost);
        }
        for lost in &lost {
            println!("{}: its {} tests without a result go to a new lab", lost.end, lost.tests.len());
        }
        plan.tests = lost.into_iter().flat_map(|lost| lost.tests).map(|(test, _)| test).collect();
    }
    Ok(Vec::new())
}

/// Runs the tests of `plan` in labs at the same time; neighbours, which take as long as each other, in different ones.
fn visit_some(
    programs: &[Program],
    plan: &Plan,
    at_a_time: usize,
    arguments: &TestArgs,
    on_result: OnResult<'_>,
) -> io::Result<Vec<Lost>> {
    let labs = at_a_time.min(plan.tests.len().div_ceil(plan.jobs));
    let part = |number: usize| {
        let tests = plan.tests.iter().skip(number).step_by(labs).cloned().collect();
        Plan { tests, ..plan.clone() }
    };
    let on_result = Mutex::new(on_result);
    machine::block_signals()?;
    std::thread::scope(|scope| {
        let visits: Vec<_> = (0..labs)
            .map(|number| {
                let (plan, on_result) = (part(number), &on_result);
                scope.spawn(move || visit_for(programs, &plan, arguments, on_result))
            })
            .collect();
        let ended = visits
            .into_iter()
            .map(|visit| visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).transpose());
        ended.flatten().collect()
    })
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
    on_result: &Mutex<OnResult<'_>>,
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
                let mut on_result = on_result.lock().unwrap_or_else(PoisonError::into_inner);
                on_result(test, outcome, Duration::from_millis(millis), &output);
            }
        }
        _ => {}
    })?;
    let lost = waiting.into_iter().enumerate();
    let tests: Vec<_> = lost.filter_map(|(number, test)| Some((test?, running.contains(&number)))).collect();
    Ok((end != End::Done(0) || !tests.is_empty()).then_some(Lost { end, tests }))
}
