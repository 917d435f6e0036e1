//! Tests in labs: as many labs at a time as this machine has processors, to which the tests are dealt out one by one. A
//! lab has one system, and gets the tests of that system. What it loses goes to another, and what fails gets a second try.

use std::collections::VecDeque;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::machine::{self, End};
use crate::protocol::{Message, Outcome, PAYLOAD, Plan, Test, Work};
use crate::report::Report;
use crate::suite::Program;
use crate::systems::System;
use crate::test::{TestArgs, container_images, debian_image};
use crate::times::Times;
use crate::visit::{Surroundings, Visit};

/// How many tests a lab runs at a time: while one waits, another has the processor.
const JOBS: usize = 3;

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
    let mut times = Times::load();
    times.order(&mut plan.tests);
    plan.jobs = JOBS;
    let at_a_time = std::thread::available_parallelism()?.get().min(MOST_LABS);

    let mut again = Vec::new();
    let lost = in_labs(programs, &plan, at_a_time, arguments, &mut |test, outcome, time, output| {
        times.took(&test, time);
        match outcome.failure(time) {
            Some(reason) if arguments.second_try && again.len() < SECOND_TRIES => {
                report.doubt(&test, reason, time, output);
                again.push(test);
            }
            _ => report.add(&test, outcome, time, output),
        }
    })?;
    times.save()?;
    lost.into_iter().for_each(|lost| lost.report(&plan, report));
    if !again.is_empty() {
        println!("{} tests that failed go to a new lab, one at a time", again.len());
        (plan.tests, plan.jobs) = (again, 1);
        let lost = in_labs(programs, &plan, 1, arguments, &mut |test, outcome, time, output| {
            report.add(&test, outcome, time, output);
        })?;
        lost.into_iter().for_each(|lost| lost.report(&plan, report));
    }
    Ok(())
}

/// Who hears of a result: the test, its outcome, how long it took, and its output.
type OnResult<'a> = &'a mut (dyn FnMut(Test, Outcome, Duration, &str) + Send);

/// What the labs share.
struct Shared<'a> {
    programs: &'a [Program],
    plan: &'a Plan,
    arguments: &'a TestArgs,
    waiting: Mutex<Waiting>,
    on_result: Mutex<OnResult<'a>>,
}

/// What has not begun.
#[derive(Default)]
struct Waiting {
    /// Tests, by their numbers.
    tests: VecDeque<usize>,
    /// The systems of labs that start: each of these is about to take tests.
    starting: Vec<System>,
}

/// A lab starts; until this is dropped.
struct Starting<'a> {
    waiting: &'a Mutex<Waiting>,
    system: System,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let starting = &mut locked(self.waiting).starting;
        if let Some(at) = starting.iter().position(|system| *system == self.system) {
            starting.swap_remove(at);
        }
    }
}

/// Runs the tests of `plan` in labs, some at a time. Each takes the next test of its system when it has a place for one;
/// where one is lost, another takes its place, as often as the arguments allow, and where one has ended and tests of
/// another system wait, one of that system. Gives what was lost in the end.
fn in_labs(
    programs: &[Program],
    plan: &Plan,
    at_a_time: usize,
    arguments: &TestArgs,
    on_result: OnResult<'_>,
) -> io::Result<Vec<Lost>> {
    let waiting = Waiting { tests: (0..plan.tests.len()).collect(), starting: Vec::new() };
    let waiting = Mutex::new(waiting);
    let shared = Shared { programs, plan, arguments, waiting, on_result: Mutex::new(on_result) };
    machine::block_signals()?;
    let mut lost = std::thread::scope(|scope| {
        let labs: Vec<_> = (0..at_a_time)
            .map(|number| {
                // One lab of Debian stable, where the fewest tests are, is enough for a beginning.
                let first = if number == 1 { System::Stable } else { System::Testing };
                let shared = &shared;
                scope.spawn(move || shared.labs_in_turn(first))
            })
            .collect();
        let ended = labs.into_iter().map(|lab| lab.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.filter_map(Result::transpose).collect::<io::Result<Vec<Lost>>>()
    })?;
    // Nobody is left to run these.
    let waiting = std::mem::take(&mut *locked(&shared.waiting));
    if let Some(lost) = lost.first_mut() {
        lost.waiting = waiting.tests.into();
    }
    Ok(lost)
}

/// What a lab that did not end in order left without a result, by numbers.
struct Lost {
    end: End,
    running: Vec<usize>,
    /// Those that had not been started.
    waiting: Vec<usize>,
}

impl Lost {
    /// Every test of the plan has a result, or the reason why it has none.
    fn report(self, plan: &Plan, report: &mut Report) {
        for (tests, when) in [(self.running, "while it ran"), (self.waiting, "before its turn")] {
            for test in tests.into_iter().filter_map(|number| plan.tests.get(number)) {
                report.missing(test.full_name(), format!("{when}: {}", self.end));
            }
        }
        report.missing("the lab itself".into(), self.end.to_string());
    }
}

impl Shared<'_> {
    /// One lab after the other, as long as tests wait, the first of this system if any of its tests do; what the last
    /// one lost, if too many did not end in order.
    fn labs_in_turn(&self, first: System) -> io::Result<Option<Lost>> {
        let (mut system, mut lost_labs) = (first, 0);
        while let Some(starting) = self.next_lab(system) {
            system = starting.system;
            let Some(lost) = self.visit(starting)? else { continue };
            lost_labs += 1;
            if lost_labs >= self.arguments.labs {
                return Ok(Some(lost));
            }
            println!("{}: its {} tests without a result go to a new lab", lost.end, lost.running.len());
            locked(&self.waiting).tests.extend(lost.running);
        }
        Ok(None)
    }

    /// A lab, of this system if possible, for tests that wait and that no lab which starts will take.
    fn next_lab(&self, last: System) -> Option<Starting<'_>> {
        let mut waiting = locked(&self.waiting);
        let is_wanted = |system: &System| {
            let tests = waiting.tests.iter().filter(|number| self.system_of(**number) == Some(*system));
            let starting = waiting.starting.iter().filter(|starting| *starting == system);
            tests.count() > starting.count() * self.plan.jobs
        };
        let system = [last].into_iter().chain(System::ALL).find(is_wanted)?;
        waiting.starting.push(system);
        Some(Starting { waiting: &self.waiting, system })
    }

    /// Takes the next test that waits for a lab of this system.
    fn take(&self, system: System) -> Option<usize> {
        let tests = &mut locked(&self.waiting).tests;
        let at = tests.iter().position(|number| self.system_of(*number) == Some(system))?;
        tests.remove(at)
    }

    fn system_of(&self, number: usize) -> Option<System> {
        self.plan.tests.get(number).map(|test| test.system)
    }

    /// Runs tests in one lab; gives what it lost, if it did not end in order or left results out.
    fn visit(&self, starting: Starting<'_>) -> io::Result<Option<Lost>> {
        let system = starting.system;
        let mut starting = Some(starting);
        let mut surroundings = Surroundings::of(system);
        surroundings.disks.push(format!("debian={}", debian_image()?.display()));
        surroundings.disks.push(format!("images={}", container_images()?.display()));
        let mut visit = Visit::prepare(&surroundings)?;
        visit.silence_limit(Duration::from_secs(self.arguments.silence));
        for program in self.programs {
            visit.payload.add(&program.file, &format!("tests/{}", program.suite))?;
        }
        let mut running = Vec::new();
        let timeout = Some(Duration::from_secs(self.arguments.timeout));
        let end = visit.start(Work::Tests(self.plan.clone()), timeout, &mut |message| match message {
            Message::Free => {
                let next = self.take(system);
                running.extend(next);
                starting = None;
                next
            }
            Message::Ended { test, outcome, millis, output } => {
                let was_running = running.len();
                running.retain(|number| *number != test);
                if let Some(test) = self.plan.tests.get(test).filter(|_| running.len() < was_running) {
                    locked(&self.on_result)(test.clone(), outcome, Duration::from_millis(millis), &output);
                }
                None
            }
            Message::Up { kernel, millis } => {
                let time = Duration::from_millis(millis);
                println!("a lab of {system} is up: Linux {kernel}, {:.1} s", time.as_secs_f64());
                None
            }
            _ => None,
        })?;
        let in_order = end == End::Done(0) && running.is_empty();
        Ok((!in_order).then_some(Lost { end, running, waiting: Vec::new() }))
    }
}

/// Each change under these locks is complete in itself.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
