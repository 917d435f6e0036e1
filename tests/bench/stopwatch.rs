//! The stopwatch itself: what an exit of a VM costs, and how well the figure repeats.
//!
//! The smallest thing a VM does is to leave the guest for the VMM and to return (here for a write to an I/O port).
//! Everything else that is measured has this in it, so it is the first figure to look at when others move.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to tell")]

use std::fs;

use rvm_tests::artifact;
use rvm_tests::kvm::{Program, run_tiny_guest};
use serde_json::json;

const EXITS: u16 = 1000;
const RUNS: usize = 11;

/// Lab nanoseconds, which are instructions, of a guest that leaves so many times.
fn time(exits: u16) -> u128 {
    run_tiny_guest(Program { byte: 0, spins: 1, exits }).unwrap().time.as_nanos()
}

fn main() {
    // The first run pays for what the host does once.
    time(EXITS);
    let mut costs: Vec<u128> = (0..RUNS).map(|_| (time(EXITS + 1) - time(1)) / u128::from(EXITS)).collect();
    costs.sort_unstable();
    let (least, median, most) = (costs[0], costs[RUNS / 2], costs[RUNS - 1]);
    println!("an exit to the VMM and back: {median} instructions (from {least} to {most} in {RUNS} runs)");
    let figures = json!({ "exit_instructions": { "least": least, "median": median, "most": most } });
    fs::write(artifact::out().join("stopwatch.json"), figures.to_string()).unwrap();
}
