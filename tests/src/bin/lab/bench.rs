//! `lab bench`: the benchmarks, in deterministic labs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;

use crate::run::{self, RunArgs};
use crate::suite;
use crate::systems::System;
use crate::test::container_images;
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
    let guest_program = build_guest_program()?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let mut worst = 0;
    for program in programs {
        if !arguments.filters.is_empty()
            && !arguments.filters.iter().any(|filter| program.target.contains(filter))
        {
            continue;
        }
        let mut surroundings = Surroundings::of(System::Testing);
        surroundings.deterministic = true;
        surroundings.disks.push(format!("images={}", container_images()?.display()));
        surroundings.with.push(format!("{}:bench-{}", program.file.display(), program.target));
        surroundings.with.push(format!("{}:guest-bench", guest_program.display()));
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

/// Has cargo build what runs in the guests of benchmarks. It is static: their image has no libraries.
fn build_guest_program() -> io::Result<PathBuf> {
    // As in `.ci/build`, so that what both need is compiled once.
    const FLAGS: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = suite::cargo()
        .args(["build", "--release", "--quiet", "--package", "rvm-tests", "--bin", "guest-bench"])
        .args(["--target", TRIPLE, "--target-dir", "target"])
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&workspace)
        .stdin(Stdio::null())
        .status()?;
    match status.success() {
        true => Ok(workspace.join("target").join(TRIPLE).join("release/guest-bench")),
        false => Err(io::Error::other("cargo could not build the guest's program")),
    }
}
