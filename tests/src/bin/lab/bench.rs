//! `lab bench`: the benchmarks, in deterministic labs.

use std::io;
use std::path::Path;

use clap::Args;

use crate::run::{self, RunArgs};
use crate::suite;
use crate::visit::Surroundings;

#[derive(Args)]
pub struct BenchArgs {
    /// Only benchmarks whose name contains one of these.
    pub filters: Vec<String>,
    /// Seconds of wall time for each benchmark.
    #[arg(long, default_value_t = 900)]
    pub timeout: u64,
}

/// Runs the benchmarks one after the other, each in a deterministic lab of its own.
pub fn bench(arguments: &BenchArgs) -> io::Result<i32> {
    let programs = suite::build(&["bench", "--no-run", "--package", "rvm-tests", "--bench", "*"])?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let mut worst = 0;
    for program in programs {
        if !arguments.filters.is_empty()
            && !arguments.filters.iter().any(|filter| program.target.contains(filter))
        {
            continue;
        }
        let mut surroundings = Surroundings::for_tests();
        surroundings.deterministic = true;
        surroundings.with.push(format!("{}:bench-{}", program.file.display(), program.target));
        let status = run::run(&RunArgs {
            surroundings,
            timeout: arguments.timeout,
            out: Some(out.clone()),
            command: vec![format!("bench-{}", program.target)],
        })?;
        if status != 0 {
            eprintln!("lab: benchmark {} ended with status {status}", program.target);
            worst = 1;
        }
    }
    println!("figures: {}", out.canonicalize().unwrap_or(out).display());
    Ok(worst)
}
