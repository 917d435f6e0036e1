//! `lab`: the nested test bed, from the outside and (as `lab inside`) from the inside.
//!
//! Where a machine's KVM is not real, everything that needs one happens in the lab: a machine with AMD SVM that
//! QEMU emulates, running a Debian host. See docs/testing.md.

mod inside;
mod machine;
mod payload;
mod protocol;
mod report;
mod runner;
mod suite;
mod visit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Run commands, tests and benchmarks in the nested lab.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run one command in the lab; its output and exit status come out.
    Run(RunArgs),
    /// A shell in the lab; Ctrl-a x stops the lab at once.
    Shell(Surroundings),
    /// Run the workspace's tests: end-to-end tests in the lab (or here, if KVM is real), all others here.
    Test(TestArgs),
    /// Run the benchmarks in the lab's deterministic mode.
    Bench(BenchArgs),
    /// Say whether this machine's KVM is real, or why not.
    Kvm,
    /// Do the job on the payload disk (what runs inside the lab).
    #[command(hide = true)]
    Inside,
}

/// What a lab is like and what is in it.
#[derive(Args)]
struct Surroundings {
    /// Put this file or directory at /pay/NAME (/pay is in PATH); SOURCE:NAME to name it.
    #[arg(long = "with", value_name = "SOURCE[:NAME]")]
    with: Vec<String>,
    /// Attach this image as a disk; $RVM_DISK_NAME inside says where it is.
    #[arg(long = "disk", value_name = "NAME=FILE")]
    disks: Vec<String>,
    /// Count instructions: one vCPU, and a nanosecond of lab time for each.
    #[arg(long)]
    deterministic: bool,
    /// vCPUs of the lab.
    #[arg(long, default_value_t = 2, conflicts_with = "deterministic")]
    cpus: u32,
    /// Memory of the lab, in MiB.
    #[arg(long, default_value_t = 6144)]
    memory: u64,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    surroundings: Surroundings,
    /// Stop the lab after this many seconds of wall time.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Put what the command leaves in $RVM_OUT into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct TestArgs {
    /// Only tests whose name ("suite test") contains one of these.
    filters: Vec<String>,
    /// Only the tests that run in the lab.
    #[arg(long)]
    lab_only: bool,
    /// Seconds after which one test is killed.
    #[arg(long, default_value_t = 300)]
    test_timeout: u64,
    /// Seconds after which the lab is stopped.
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
}

#[derive(Args)]
struct BenchArgs {
    /// Only benchmarks whose name contains one of these.
    filters: Vec<String>,
    /// Seconds of wall time for each benchmark.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::Run(arguments) => visit::run(&arguments),
        Action::Shell(surroundings) => visit::shell(&surroundings),
        Action::Test(arguments) => visit::test(&arguments),
        Action::Bench(arguments) => visit::bench(&arguments),
        Action::Kvm => Ok(kvm()),
        Action::Inside => inside::main(),
    };
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(125)
        }
    }
}

fn kvm() -> i32 {
    match rvm_tests::kvm::real() {
        Ok(()) => {
            println!("this machine's KVM");
            0
        }
        Err(reason) => {
            println!("the nested lab ({reason})");
            1
        }
    }
}
