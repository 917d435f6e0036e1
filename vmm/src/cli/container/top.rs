//! `rvm top`: the processes of a container.

use clap::Args;

use super::{ContainerError, ask, report, table};
use crate::state::Runtime;
use crate::supervisor::protocol::{ProcessRecord, Reply, Request};

/// The flags of `rvm top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Name or id of a container
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// Prints the processes of a container, by their numbers in the guest.
pub fn top(args: &TopArgs) -> u8 {
    let text = Runtime::open()
        .map_err(ContainerError::from)
        .and_then(|runtime| ask(&runtime, &args.name, &Request::Processes))
        .and_then(|reply| match reply {
            Reply::Processes(processes) => Ok(text(&processes)),
            _ => Err(super::super::attach::AttachError::Strange.into()),
        });
    report(
        text.and_then(|text| super::super::print(&text).map_err(ContainerError::host("print")).map(|()| 0)),
    )
}

fn text(processes: &[ProcessRecord]) -> String {
    let mut rows = vec![["UID", "PID", "PPID", "TTY", "TIME", "CMD"].map(str::to_owned).to_vec()];
    rows.extend(processes.iter().map(|process| {
        let seconds = process.cpu_us / 1_000_000;
        let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            printable(&process.terminal),
            time,
            printable(&process.command),
        ]
    }));
    table(&rows)
}

/// The guest's words, without what would drive the terminal.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}
