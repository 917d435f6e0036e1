//! `rvm ps`: the containers that there are.

use clap::Args;
use rvm_sandbox::network::Published;
use serde::Serialize;

use super::{ContainerError, id_cell, report, table};
use crate::state::{Phase, Record, Runtime, Status};
use crate::time::{Timestamp, roughly};

/// The flags of `rvm ps`.
#[derive(Args, Debug)]
pub struct PsArgs {
    /// Those that have ended, too
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// As JSON: an array of objects
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// A container in the JSON of `rvm ps`.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    image: &'a str,
    command: Vec<&'a str>,
    created: Timestamp,
    #[serde(flatten)]
    status: &'a Status,
}

/// Longest command that a table shows.
const COMMAND_CELL: usize = 20;

/// Prints the containers.
pub fn ps(args: &PsArgs) -> u8 {
    report(
        list(args)
            .and_then(|text| super::super::print(&text).map_err(ContainerError::host("print")).map(|()| 0)),
    )
}

fn list(args: &PsArgs) -> Result<String, ContainerError> {
    let mut containers = Vec::new();
    for (directory, record) in Runtime::open()?.list()? {
        // One that is removed meanwhile is not there.
        let Ok(status) = directory.status() else { continue };
        if args.all || !status.phase.is_over() {
            containers.push((record, status));
        }
    }
    if args.json {
        let rows: Vec<Row> = containers.iter().map(|(record, status)| row(record, status)).collect();
        let json = serde_json::to_string_pretty(&rows).map_err(std::io::Error::from);
        return Ok(json.map_err(ContainerError::host("print"))? + "\n");
    }
    let id = |record: &Record| if args.no_trunc { record.id.clone() } else { id_cell(record) };
    if args.quiet {
        return Ok(containers.iter().map(|(record, _)| id(record) + "\n").collect());
    }
    let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(containers.iter().map(|(record, status)| {
        vec![
            id(record),
            record.image.reference.clone(),
            command_cell(record, args.no_trunc),
            format!("{} ago", roughly(record.created.age())),
            status_cell(status),
            ports_cell(&status.published),
            record.name.clone(),
        ]
    }));
    Ok(table(&rows))
}

fn row<'a>(record: &'a Record, status: &'a Status) -> Row<'a> {
    Row {
        id: &record.id,
        name: &record.name,
        image: &record.image.reference,
        command: record.command(),
        created: record.created,
        status,
    }
}

fn command_cell(record: &Record, whole: bool) -> String {
    let command = record.command().join(" ").escape_debug().to_string();
    match command.char_indices().nth(COMMAND_CELL) {
        Some((end, _)) if !whole => format!("\"{}...\"", command.get(..end).unwrap_or_default()),
        _ => format!("\"{command}\""),
    }
}

fn status_cell(status: &Status) -> String {
    let up = || roughly(status.started.map(Timestamp::age).unwrap_or_default());
    match status.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}", up()),
        Phase::Paused => format!("Up {} (Paused)", up()),
        Phase::Exited => {
            let code = status.exit_code.map_or_else(|| "?".to_owned(), |code| code.to_string());
            let ago = status.finished.map(|time| format!(" {} ago", roughly(time.age()))).unwrap_or_default();
            format!("Exited ({code}){ago}")
        }
    }
}

fn ports_cell(published: &[Published]) -> String {
    let ports = published.iter().map(|port| format!("{}->{}/{}", port.host, port.guest_port, port.protocol));
    ports.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_its_code() {
        let status = Status { phase: Phase::Exited, exit_code: Some(137), ..Status::default() };
        assert_eq!(status_cell(&status), "Exited (137)");
    }
}
