//! Results as they come, one line a test, and the summary at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::{Outcome, Test};

/// Everything that has ended so far.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    /// What failed, with the reason.
    failed: Vec<(String, String)>,
    /// What could not run, with the reason.
    skipped: Vec<(String, String)>,
    /// What failed and is tried once more, with the reason.
    doubted: BTreeMap<String, String>,
    /// What passed, but only then, with the reason of the failure before it.
    passed_then: Vec<(String, String)>,
}

impl Report {
    /// Takes in one result and prints its line; of a test that failed also its output.
    pub fn add(&mut self, test: &Test, outcome: Outcome, time: Duration, output: &str) {
        let name = test.full_name();
        let word = match &outcome {
            Outcome::Passed => "PASS",
            Outcome::Failed(_) => "FAIL",
            Outcome::TimedOut => "TIMEOUT",
            Outcome::CouldNotRun(_) => "SKIP",
        };
        println!("{word:>8} [{:>8.3}s] {name}", time.as_secs_f64());
        if let Some(reason) = outcome.failure(time) {
            print_failure(&name, &reason, output, "");
            self.failed.push((name, reason));
        } else if let Outcome::CouldNotRun(reason) = outcome {
            self.skipped.push((name, reason));
        } else {
            self.passed += 1;
            if let Some(reason) = self.doubted.remove(&name) {
                self.passed_then.push((name, reason));
            }
        }
    }

    /// Takes in the reason of a failure that does not count yet, because the test gets a second try; prints all of it.
    pub fn doubt(&mut self, test: &Test, reason: String, time: Duration, output: &str) {
        let name = test.full_name();
        println!("   AGAIN [{:>8.3}s] {name}", time.as_secs_f64());
        // Not at the start of a line, where the words of a failed test would count as a result.
        print_failure(&name, &reason, output, "| ");
        self.doubted.insert(name, reason);
    }

    /// A test (or a whole suite) of which nothing was heard.
    pub fn missing(&mut self, name: String, reason: String) {
        println!("    LOST             {name}");
        self.failed.push((name, reason));
    }

    pub fn skip(&mut self, name: String, reason: String) {
        self.skipped.push((name, reason));
    }

    /// Prints the summary; whether all is well.
    pub fn finish(self) -> bool {
        let then = "passed, but only at the second try";
        let lists = [("could not run", &self.skipped), (then, &self.passed_then), ("failed", &self.failed)];
        for (title, list) in lists {
            if !list.is_empty() {
                println!("\n{title}:");
            }
            for (name, reason) in list {
                println!("  {name}: {reason}");
            }
        }
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        self.failed.is_empty()
    }
}

fn print_failure(name: &str, reason: &str, output: &str, margin: &str) {
    println!("---- {name}: {reason}; its output:");
    for line in output.lines() {
        println!("{margin}{line}");
    }
    println!("----");
}
