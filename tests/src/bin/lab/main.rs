//! `lab`: the nested test bed, from the outside and (as `lab inside`) from the inside.
//!
//! Where a machine's KVM is not real, everything that needs one happens in the lab: a machine with AMD SVM that
//! QEMU emulates, running a Debian host. See docs/testing.md.

mod bench;
mod inside;
mod labs;
mod machine;
mod payload;
mod protocol;
mod report;
mod run;
mod runner;
mod suite;
mod systems;
mod test;
mod times;
mod visit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run commands, tests and benchmarks in the nested lab.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run one command in the lab; its output and exit status come out.
    Run(run::RunArgs),
    /// A shell in the lab; Ctrl-a x stops the lab at once.
    Shell(visit::Surroundings),
    /// Run the workspace's tests: end-to-end tests in the lab (or here, if KVM is real), all others here.
    Test(test::TestArgs),
    /// Run the benchmarks in the lab's deterministic mode.
    Bench(bench::BenchArgs),
    /// Say where virtual machines run: here (status 0), or in the lab and why (status 1).
    Kvm,
    /// Do the job on the payload disk (what runs inside the lab).
    #[command(hide = true)]
    Inside,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::Run(arguments) => run::run(&arguments),
        Action::Shell(surroundings) => run::shell(&surroundings),
        Action::Test(arguments) => test::test(&arguments),
        Action::Bench(arguments) => bench::bench(&arguments),
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
            println!("virtual machines run on this machine's own KVM");
            0
        }
        Err(reason) => {
            println!("virtual machines run in the nested lab, because: {reason}");
            1
        }
    }
}
