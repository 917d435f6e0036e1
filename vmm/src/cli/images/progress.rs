//! How a pull gets on: a bar for each layer on a terminal, else a line when a layer is done. On standard error.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rvm_sandbox::images::digest::Digest;
use rvm_sandbox::images::{Progress, Step};

use crate::logging::say;

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

/// Shows it to whoever reads standard error.
pub struct Shown {
    kind: Kind,
    /// The bars of the layers that have begun.
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

enum Kind {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

impl Shown {
    /// Shows, on a terminal alone, what keeps a container from its start.
    pub fn of_run() -> Self {
        Self::new(!io::stderr().is_terminal())
    }

    /// Shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let kind = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Kind::Quiet,
            (false, true) => Kind::Bars(MultiProgress::new()),
            (false, false) => Kind::Lines,
        };
        Self { kind, bars: Mutex::default() }
    }

    fn draw(&self, all: &MultiProgress, layer: &Digest, step: Step) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(layer.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::no_length());
            bar.set_style(style("{prefix}: {msg}"));
            bar.set_prefix(digits(layer).to_owned());
            bar
        });
        match step {
            Step::Exists => bar.finish_with_message("exists"),
            Step::Fetched(done, total) => {
                if bar.length() != Some(total) {
                    bar.set_style(style("{prefix}: [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}"));
                    bar.set_length(total);
                }
                bar.set_position(done);
            }
            Step::Converting => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message("converting");
            }
            Step::Done => bar.finish_with_message("done"),
        }
    }
}

impl Progress for Shown {
    fn layer(&self, layer: &Digest, step: Step) {
        match (&self.kind, step) {
            (Kind::Bars(all), step) => self.draw(all, layer, step),
            (Kind::Lines, Step::Exists) => line(layer, "exists"),
            (Kind::Lines, Step::Done) => line(layer, "done"),
            _ => {}
        }
    }

    fn note(&self, line: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => say(line),
            Kind::Bars(all) => all.suspend(|| say(line)),
        }
    }
}

/// A style of this file's own, which is one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn digits(layer: &Digest) -> &str {
    layer.hex().get(..DIGITS).unwrap_or_default()
}

/// Where standard error is closed, nobody reads it.
fn line(layer: &Digest, what: &str) {
    writeln!(io::stderr(), "{}: {what}", digits(layer)).ok();
}
