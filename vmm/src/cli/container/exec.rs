//! `rvm exec`: one more process in a container that runs.

use std::io;

use clap::Args;
use serde_json::{Value, json};

use super::super::attach::{self, Attached};
use super::super::run::{Size, environment};
use super::{ContainerError, report, running};
use crate::state::{Record, Runtime, UserRecord};
use crate::supervisor::protocol::{Exec, Request};

/// The flags of `rvm exec`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct ExecArgs {
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable, or pass one of this process on; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory [default: the container's]
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// User, and group: NAME|UID[:NAME|GID] [default: the container's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Name or id of a container
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Command, and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs a command in a container; gives its exit code.
pub fn exec(args: &ExecArgs) -> u8 {
    report(run(args))
}

fn run(args: &ExecArgs) -> Result<u8, ContainerError> {
    if args.tty && args.interactive && !args.detach && !nix::unistd::isatty(io::stdin()).unwrap_or_default() {
        let reason = "cannot give the command a terminal: standard input is none; leave out -t";
        return Err(ContainerError::Value(reason.to_owned()));
    }
    let (directory, record) = running(&Runtime::open()?, &args.name)?;
    let user = match &args.user {
        Some(user) => UserRecord { user: user.clone(), groups: Vec::new() },
        None => record.user.clone(),
    };
    let exec = Exec {
        process: process(args, &record)?,
        user,
        interactive: args.interactive && !args.detach,
        size: (args.tty && !args.detach).then(attach::terminal_size).flatten(),
        detach: args.detach,
    };
    let attached = Attached::connect(&directory.control(), &Request::Exec(Box::new(exec)))?;
    if args.detach {
        attached.started()?;
        return Ok(0);
    }
    let memory = Size(record.memory.bytes());
    Ok(attached.carry(args.interactive, args.tty && args.interactive, memory)?)
}

/// The container's first process with another command: its environment, directory and rights.
fn process(args: &ExecArgs, record: &Record) -> Result<Value, ContainerError> {
    let bad = |what: &str| ContainerError::Value(format!("the container's record is damaged: {what}"));
    let process = record.spec.get("process").and_then(Value::as_object);
    let mut process = process.ok_or_else(|| bad("it has no process"))?.clone();
    let variables = process.get("env").cloned().unwrap_or_default();
    let variables = serde_json::from_value(variables);
    let mut variables: Vec<String> = variables.map_err(|error| bad(&error.to_string()))?;
    if args.tty && !variables.iter().any(|variable| variable.starts_with("TERM=")) {
        variables.push("TERM=xterm".to_owned());
    }
    for given in &args.env {
        environment::add(&mut variables, given).map_err(|error| ContainerError::Value(error.to_string()))?;
    }
    process.insert("env".to_owned(), json!(variables));
    process.insert("args".to_owned(), json!(args.command));
    process.insert("terminal".to_owned(), json!(args.tty));
    if let Some(directory) = &args.workdir {
        process.insert("cwd".to_owned(), json!(directory));
    }
    Ok(process.into())
}
