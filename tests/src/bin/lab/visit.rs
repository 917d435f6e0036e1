//! What one can do with a lab: run a command in it, have a shell, run the tests, run the benchmarks.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::termios::{self, SetArg};

use crate::machine::{Console, End, Machine};
use crate::payload::Payload;
use crate::protocol::{Job, Message, PAYLOAD, Plan, Stream, Test, Work};
use crate::report::Report;
use crate::runner::{self, Event};
use crate::suite::{self, Program};
use crate::{BenchArgs, RunArgs, Surroundings, TestArgs};

/// The target whose tests need KVM, and so run in the lab or on a real one.
const E2E: &str = "e2e";

/// Runs one command; the status is the command's.
pub fn run(arguments: &RunArgs) -> io::Result<i32> {
    let visit = Visit::prepare(&arguments.surroundings)?;
    let work = Work::Command {
        argv: arguments.command.clone(),
    };
    let timeout = Some(Duration::from_secs(arguments.timeout));
    let mut failure = None;
    let end = visit.start(work, timeout, &mut |message| {
        let done = match message {
            Message::Output { stream, bytes } => pass_on(stream, &bytes.0),
            Message::File { name, bytes } => keep(arguments.out.as_deref(), &name, &bytes.0),
            _ => Ok(()),
        };
        if let Err(error) = done {
            failure.get_or_insert(error);
        }
    })?;
    match (end, failure) {
        (_, Some(error)) => Err(error),
        (End::Done(status), None) => Ok(status),
        (end, None) => Err(io::Error::other(end.to_string())),
    }
}

fn pass_on(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        Stream::Stderr => io::stderr().write_all(bytes),
    }
}

fn keep(directory: Option<&Path>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let Some(directory) = directory else {
        return Ok(());
    };
    fs::create_dir_all(directory)?;
    fs::write(directory.join(name), bytes)
}

/// A shell on the terminal, which is as it was before when the lab has ended.
pub fn shell(surroundings: &Surroundings) -> io::Result<i32> {
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin).map_err(|error| {
        io::Error::other(format!("a shell in the lab needs a terminal: {error}"))
    })?;
    let visit = Visit::prepare(surroundings)?;
    let (rows, columns) = terminal_size()?;
    println!("the lab starts; leave it with `exit`, or at once with Ctrl-a x");
    let end = visit.start(Work::Shell { rows, columns }, None, &mut |_| {});
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
    match end? {
        End::Done(status) => Ok(status),
        End::QemuEnded(_) => Ok(0), // Ctrl-a x
        end => Err(io::Error::other(end.to_string())),
    }
}

/// Rows and columns of the terminal, as `stty` has them.
fn terminal_size() -> io::Result<(u16, u16)> {
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(rows)), Some(Ok(columns))) if rows > 0 => Ok((rows, columns)),
        _ => Ok((24, 80)),
    }
}

/// Runs the workspace's tests; the status is 0 if none failed.
pub fn test(arguments: &TestArgs) -> io::Result<i32> {
    let mut build = vec!["test", "--no-run"];
    build.extend(if arguments.lab_only {
        ["--package", "rvm-tests", "--test", E2E].as_slice()
    } else {
        &["--workspace"]
    });
    let programs = suite::build(&build)?;
    let mut report = Report::default();
    let (e2e, ordinary): (Vec<_>, Vec<_>) = programs
        .into_iter()
        .partition(|program| program.target == E2E);

    let plan = plan(&ordinary, arguments, &mut report)?;
    if !plan.tests.is_empty() {
        println!("{} tests on this machine", plan.tests.len());
        test_here(&plan, &mut report);
    }
    let plan = self::plan(&e2e, arguments, &mut report)?;
    if !plan.tests.is_empty() {
        match rvm_tests::kvm::real() {
            Ok(()) => {
                println!(
                    "{} end-to-end tests on this machine's KVM",
                    plan.tests.len()
                );
                test_here(&plan, &mut report);
            }
            Err(reason) => {
                println!(
                    "{} end-to-end tests in the nested lab ({reason})",
                    plan.tests.len()
                );
                test_in_lab(plan, arguments, &mut report)?;
            }
        }
    }
    Ok(i32::from(!report.finish()))
}

/// The tests of these programs that the filters let through.
fn plan(programs: &[Program], arguments: &TestArgs, report: &mut Report) -> io::Result<Plan> {
    let mut tests = Vec::new();
    for program in programs {
        for (test, ignored) in runner::list(&program.suite, &program.file, &program.directory)? {
            let name = format!("{} {}", test.suite, test.name);
            if !arguments.filters.is_empty()
                && !arguments.filters.iter().any(|filter| name.contains(filter))
            {
                continue;
            }
            if ignored {
                report.skip(name, "marked #[ignore]".into());
            } else {
                tests.push(test);
            }
        }
    }
    Ok(Plan {
        tests,
        jobs: std::thread::available_parallelism()?.get().min(8),
        timeout: arguments.test_timeout,
    })
}

fn test_here(plan: &Plan, report: &mut Report) {
    let report = Mutex::new(report);
    runner::run(plan, &[], &|event| {
        if let Event::Ended {
            test,
            outcome,
            time,
            output,
        } = event
            && let Some(test) = plan.tests.get(test)
        {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(test, outcome, time, &output);
        }
    });
}

fn test_in_lab(mut plan: Plan, arguments: &TestArgs, report: &mut Report) -> io::Result<()> {
    let visit = Visit::prepare(&Surroundings::for_tests())?;
    for test in &mut plan.tests {
        let name = format!("tests/{}", test.suite);
        if !visit.has(&name) {
            visit.payload.add(&test.program, &name)?;
        }
        test.program = Path::new(PAYLOAD).join(name);
        test.directory = "/root".into();
    }
    plan.jobs = 2;
    let mut waiting: Vec<Option<Test>> = plan.tests.iter().cloned().map(Some).collect();
    let mut running = Vec::new();
    let timeout = Some(Duration::from_secs(arguments.timeout));
    let end = visit.start(Work::Tests(plan), timeout, &mut |message| match message {
        Message::Up { kernel, millis } => {
            println!(
                "the lab is up: Linux {kernel}, {:.1} s",
                Duration::from_millis(millis).as_secs_f64()
            );
        }
        Message::Started { test } => running.push(test),
        Message::Ended {
            test,
            outcome,
            millis,
            output,
        } => {
            running.retain(|number| *number != test);
            if let Some(test) = waiting.get_mut(test).and_then(Option::take) {
                report.add(&test, outcome, Duration::from_millis(millis), &output);
            }
        }
        _ => {}
    })?;
    for (number, test) in waiting.into_iter().enumerate() {
        let Some(test) = test else { continue };
        let when = if running.contains(&number) {
            "while it ran"
        } else {
            "before its turn"
        };
        report.missing(
            format!("{} {}", test.suite, test.name),
            format!("{when}: {end}"),
        );
    }
    if end != End::Done(0) {
        report.missing("lab".into(), end.to_string());
    }
    Ok(())
}

/// Runs the benchmarks one after the other, each in a deterministic lab of its own.
pub fn bench(arguments: &BenchArgs) -> io::Result<i32> {
    let programs = suite::build(&["bench", "--no-run", "--package", "rvm-tests", "--benches"])?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let mut worst = 0;
    for program in programs {
        if !arguments.filters.is_empty()
            && !arguments
                .filters
                .iter()
                .any(|filter| program.target.contains(filter))
        {
            continue;
        }
        let mut surroundings = Surroundings::for_tests();
        surroundings.deterministic = true;
        surroundings.with.push(format!(
            "{}:bench-{}",
            program.file.display(),
            program.target
        ));
        let status = run(&RunArgs {
            surroundings,
            timeout: arguments.timeout,
            out: Some(out.clone()),
            command: vec![format!("bench-{}", program.target)],
        })?;
        if status != 0 {
            eprintln!(
                "lab: benchmark {} ended with status {status}",
                program.target
            );
            worst = 1;
        }
    }
    println!("figures: {}", out.canonicalize().unwrap_or(out).display());
    Ok(worst)
}

impl Surroundings {
    fn for_tests() -> Self {
        Self {
            with: Vec::new(),
            disks: Vec::new(),
            deterministic: false,
            cpus: 2,
            memory: 6144,
        }
    }
}

/// A lab that is about to start.
struct Visit {
    /// Sockets, logs and the payload; gone afterwards, but for the logs of a lab that ended badly.
    directory: tempfile::TempDir,
    payload: Payload,
    machine: Machine,
    names: RefCell<Vec<String>>,
}

impl Visit {
    fn prepare(surroundings: &Surroundings) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rvm-lab-").tempdir()?;
        let payload = Payload::new(directory.path().join("payload"))?;
        payload.add_artifacts()?;
        for with in &surroundings.with {
            let (source, name) = match with.split_once(':') {
                Some((source, name)) => (Path::new(source), name.to_owned()),
                None => {
                    let source = Path::new(with);
                    let name = source
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned());
                    (
                        source,
                        name.ok_or_else(|| io::Error::other(format!("{with} has no file name")))?,
                    )
                }
            };
            payload.add(source, &name)?;
        }
        let mut disks = Vec::new();
        for disk in &surroundings.disks {
            let (name, file) = disk
                .split_once('=')
                .ok_or_else(|| io::Error::other(format!("--disk {disk}: expected NAME=FILE")))?;
            disks.push((name.to_owned(), PathBuf::from(file)));
        }
        let machine = Machine {
            image: image("host")?,
            payload: directory.path().join("payload.img"),
            disks,
            deterministic: surroundings.deterministic,
            cpus: surroundings.cpus,
            memory: surroundings.memory,
            console: Console::Log,
            timeout: None,
        };
        Ok(Self {
            directory,
            payload,
            machine,
            names: RefCell::default(),
        })
    }

    /// Whether this name was asked for before.
    fn has(&self, name: &str) -> bool {
        let mut names = self.names.borrow_mut();
        let known = names.iter().any(|known| known == name);
        if !known {
            names.push(name.to_owned());
        }
        known
    }

    fn start(
        mut self,
        work: Work,
        timeout: Option<Duration>,
        on_message: &mut dyn FnMut(Message),
    ) -> io::Result<End> {
        if matches!(work, Work::Shell { .. }) {
            self.machine.console = Console::Terminal;
        }
        self.machine.timeout = timeout;
        let job = Job {
            beat: !self.machine.deterministic,
            env: Vec::new(),
            work,
        };
        self.payload.finish(&job, &self.machine.payload)?;
        let end = self.machine.run(self.directory.path(), on_message);
        if !matches!(end, Ok(End::Done(_))) {
            fs::remove_file(&self.machine.payload)?;
            let kept = self.directory.keep();
            if self.machine.console == Console::Log {
                eprintln!(
                    "lab: its console is in {}",
                    kept.join("console.log").display()
                );
            }
        }
        end
    }
}

/// The directory of one of the lab's images, which is built if it is not in the cache.
fn image(name: &str) -> io::Result<PathBuf> {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/build"))
        .arg(name)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("the lab has no {name} image")));
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}
