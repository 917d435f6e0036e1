//! `rvm stats`: what containers use.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::super::attach::AttachError;
use super::super::run::Size;
use super::{ContainerError, ask, id_cell, report, table};
use crate::state::{Record, Runtime};
use crate::supervisor::protocol::{Reply, Request, Usage};

/// The flags of `rvm stats`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct StatsArgs {
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Names or ids of containers [default: all that run]
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,
}

/// Between two looks: the share of a processor is what was used in between.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints what containers use, once or again and again.
pub fn stats(args: &StatsArgs) -> u8 {
    report(run(args).map(|()| 0))
}

/// A container at one point in time.
struct Look {
    record: Record,
    usage: Usage,
    when: Instant,
}

fn run(args: &StatsArgs) -> Result<(), ContainerError> {
    let runtime = Runtime::open()?;
    let mut before = look(&runtime, args)?;
    loop {
        thread::sleep(INTERVAL);
        let now = look(&runtime, args)?;
        let text = text(&before, &now);
        // Over what was printed before, where that is a table that is watched.
        let home = if args.no_stream { "" } else { "\x1b[H\x1b[J" };
        super::super::print(&format!("{home}{text}")).map_err(ContainerError::host("print"))?;
        if args.no_stream {
            return Ok(());
        }
        before = now;
    }
}

fn look(runtime: &Runtime, args: &StatsArgs) -> Result<Vec<Look>, ContainerError> {
    let mut looks = Vec::new();
    let records = match args.names.as_slice() {
        [] => runtime.list()?.into_iter().map(|(_, record)| record).collect(),
        names => {
            names.iter().map(|name| Ok(runtime.find(name)?.1)).collect::<Result<Vec<_>, ContainerError>>()?
        }
    };
    for record in records {
        match ask(runtime, &record.id, &Request::Stats) {
            Ok(Reply::Stats(usage)) => looks.push(Look { record, usage: *usage, when: Instant::now() }),
            Ok(_) => return Err(AttachError::Strange.into()),
            // Of all: those that run.
            Err(_) if args.names.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(looks)
}

fn text(before: &[Look], now: &[Look]) -> String {
    let head =
        ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "VM MEM", "NET I/O", "BLOCK I/O", "PIDS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(now.iter().map(|look| {
        let earlier = before.iter().find(|earlier| earlier.record.id == look.record.id);
        let usage = &look.usage;
        let limit =
            usage.memory_limit_bytes.map_or_else(|| "none".to_owned(), |limit| Size(limit).to_string());
        let pair = |(one, other): (u64, u64)| format!("{} / {}", Size(one), Size(other));
        vec![
            id_cell(&look.record),
            look.record.name.clone(),
            earlier.map_or_else(String::new, |earlier| format!("{:.2}%", share(earlier, look))),
            format!("{} / {limit}", Size(usage.memory_bytes)),
            Size(usage.vm_memory_bytes).to_string(),
            pair(usage.net),
            pair(usage.block),
            usage.pids.to_string(),
        ]
    }));
    table(&rows)
}

/// Processor time between two looks, in percent of one processor.
fn share(before: &Look, now: &Look) -> f64 {
    let used = Duration::from_micros(now.usage.cpu_us.saturating_sub(before.usage.cpu_us));
    let passed = now.when.duration_since(before.when);
    if passed.is_zero() { 0.0 } else { used.as_secs_f64() / passed.as_secs_f64() * 100.0 }
}
