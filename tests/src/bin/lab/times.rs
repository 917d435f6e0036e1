//! How long each test took the last time. Those that take longest are begun first, so that the end is not a wait for one of
//! them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::Test;

/// Those that take longest, by their modules, where nothing is known from an earlier run.
const LONG: [&str; 8] = [
    "docker::compose::",
    "containerd::many::",
    "docker::images::",
    "docker::network::",
    "run::services::",
    "docker::life::",
    "containerd::cri::",
    "debian::",
];

/// Milliseconds, by the tests' full names.
pub struct Times {
    file: PathBuf,
    millis: BTreeMap<String, u64>,
}

impl Times {
    /// What is known from earlier runs in this tree.
    pub fn load() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab-times.json");
        // Without them the order is another, and nothing else.
        let millis = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { file, millis: millis.unwrap_or_default() }
    }

    /// Puts first what took longest, and before that what is not known, of which first what is known to be long.
    pub fn order(&self, tests: &mut [Test]) {
        let known = |test: &Test| self.millis.get(&test.full_name()).copied();
        let place = |test: &Test| LONG.iter().position(|module| test.name.starts_with(module));
        tests.sort_by_key(|test| {
            (std::cmp::Reverse(known(test).unwrap_or(u64::MAX)), place(test).unwrap_or(LONG.len()))
        });
    }

    /// Keeps what the test took this time.
    pub fn took(&mut self, test: &Test, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.insert(test.full_name(), millis);
    }

    /// Writes it down for the next run.
    pub fn save(&self) -> io::Result<()> {
        fs::write(&self.file, serde_json::to_vec_pretty(&self.millis)?)
    }
}
