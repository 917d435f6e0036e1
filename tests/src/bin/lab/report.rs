//! Results as they come, one line a test, and the summary at the end.

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
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::CouldNotRun(reason) => self.skipped.push((name, reason)),
            Outcome::Failed(reason) => self.fail(name, reason, output),
            Outcome::TimedOut => {
                let reason = format!("killed after {} s", time.as_secs());
                self.fail(name, reason, output);
            }
        }
    }

    fn fail(&mut self, name: String, reason: String, output: &str) {
        println!("---- {name}: {reason}; its output:");
        print!("{output}");
        if !output.ends_with('\n') {
            println!();
        }
        println!("----");
        self.failed.push((name, reason));
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
        for (title, list) in [("could not run", &self.skipped), ("failed", &self.failed)] {
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
