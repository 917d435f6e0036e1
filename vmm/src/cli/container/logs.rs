//! `rvm logs`: what a container wrote.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::{ContainerError, report};
use crate::state::{Directory, Runtime};
use crate::supervisor::log::{Entry, LogReader};
use crate::supervisor::protocol::Kind;
use crate::time::Timestamp;

/// The flags of `rvm logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Go on with what is written from now on, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only what was written since: a time (2026-01-31T12:00:00Z), or how long ago (10m, 2h30m)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Name or id of a container
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Timestamp::now().before(duration));
    }
    text.parse().map_err(|_| "a time as 2026-01-31T12:00:00Z or a duration as 10m is expected".to_owned())
}

/// Prints what a container wrote: its standard output and error to ours.
pub fn logs(args: &LogsArgs) -> u8 {
    match print(args) {
        // A reader that is gone has read all it wanted.
        Err(ContainerError::Host { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => 0,
        result => report(result.map(|()| 0)),
    }
}

fn print(args: &LogsArgs) -> Result<(), ContainerError> {
    let failed = || ContainerError::host(format!("read the log of '{}'", args.name));
    let (directory, record) = Runtime::open()?.find(&args.name)?;
    let mut reader = match LogReader::open(&record.log()) {
        Ok(reader) => reader,
        // It ended before it could write anything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed()(error)),
    };
    let mut lines = Lines::default();
    let mut kept = VecDeque::new();
    while let Some(entry) = reader.next_entry().map_err(failed())? {
        for line in lines.split(entry) {
            if args.since.is_some_and(|since| line.time < since) {
                continue;
            }
            match args.tail {
                None => write(&line, args.timestamps).map_err(failed())?,
                Some(tail) => {
                    kept.push_back(line);
                    if kept.len() > tail {
                        kept.pop_front();
                    }
                }
            }
        }
    }
    for line in kept {
        write(&line, args.timestamps).map_err(failed())?;
    }
    match args.follow {
        true => follow(&directory, reader, lines, args.timestamps).map_err(failed()),
        false => lines.rest().iter().try_for_each(|line| write(line, args.timestamps)).map_err(failed()),
    }
}

fn follow(
    directory: &Directory,
    mut reader: LogReader,
    mut lines: Lines,
    timestamps: bool,
) -> io::Result<()> {
    loop {
        // Asked before the last look: what was written until then is found by that.
        let over = directory.status().map_or(true, |status| status.phase.is_over());
        while let Some(entry) = reader.next_entry()? {
            // As it comes, half lines included: somebody may be waiting for a prompt.
            match timestamps {
                true => lines.split(entry).iter().try_for_each(|line| write(line, true))?,
                false => {
                    lines.rest().iter().try_for_each(|line| write(line, false))?;
                    write(&entry, false)?;
                }
            }
        }
        if over {
            return lines.rest().iter().try_for_each(|line| write(line, timestamps));
        }
        thread::sleep(LOOK);
    }
}

/// Makes lines of what came in pieces, for each of the two streams.
#[derive(Default)]
struct Lines {
    open: [Option<Entry>; 2],
}

/// Longest line; what is longer is taken for several.
const LONGEST: usize = 64 << 10;

impl Lines {
    /// The lines that `entry` completes, each with its end.
    fn split(&mut self, entry: Entry) -> Vec<Entry> {
        let Entry { kind, time, bytes } = entry;
        let open = &mut self.open[usize::from(kind == Kind::Stderr)];
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = open.get_or_insert_with(|| Entry { kind, time, bytes: Vec::new() });
            line.bytes.extend(piece);
            if piece.ends_with(b"\n") || line.bytes.len() >= LONGEST {
                lines.extend(open.take());
            }
        }
        lines
    }

    /// What has no end yet.
    fn rest(&mut self) -> Vec<Entry> {
        self.open.iter_mut().filter_map(Option::take).collect()
    }
}

fn write(line: &Entry, timestamps: bool) -> io::Result<()> {
    let mut text = Vec::new();
    if timestamps {
        write!(text, "{} ", line.time)?;
    }
    text.extend(&line.bytes);
    match line.kind {
        Kind::Stderr => io::stderr().write_all(&text),
        _ => io::stdout().write_all(&text).and_then(|()| io::stdout().flush()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, text: &str) -> Entry {
        Entry { kind, time: Timestamp::from_nanoseconds(1), bytes: text.into() }
    }

    #[test]
    fn lines_are_made_of_pieces_for_each_stream() {
        let mut lines = Lines::default();
        assert_eq!(lines.split(entry(Kind::Stdout, "a\nb")), [entry(Kind::Stdout, "a\n")]);
        assert_eq!(lines.split(entry(Kind::Stderr, "x\n")), [entry(Kind::Stderr, "x\n")]);
        assert_eq!(
            lines.split(entry(Kind::Stdout, "c\nd\ne")),
            [entry(Kind::Stdout, "bc\n"), entry(Kind::Stdout, "d\n")]
        );
        assert_eq!(lines.rest(), [entry(Kind::Stdout, "e")]);
    }

    #[test]
    fn a_time_may_be_a_duration() {
        assert!(since("10m").is_ok_and(|time| time < Timestamp::now()));
        assert!(since("2026-01-31T12:00:00Z").is_ok());
        assert!(since("yesterday").is_err());
    }
}
