//! A command line that cannot be understood: one line, like every other message, and its status.
//!
//! clap's own message is several lines long. What was asked for (help, version) is printed as clap has it.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::exit::Status;
use crate::logging;
use crate::supervisor::STATUS_FAILED;

/// Prints what `error` is about; gives the status.
pub fn report(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // To standard output, which nobody may read.
            error.print().ok();
            Status::Done.into()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.print().ok();
            Status::Usage.into()
        }
        ErrorKind::ValueValidation => {
            let (argument, value) =
                (context(error, ContextKind::InvalidArg), context(error, ContextKind::InvalidValue));
            // "--memory <SIZE>"
            let flag = argument.split(' ').next().unwrap_or_default();
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            logging::say(&format!("cannot use '{value}' for {flag}: {reason}"));
            status(of_flag(flag))
        }
        _ => {
            let text = error.render().to_string();
            let first: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let line = first.join(" ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            logging::say(&format!("{line}; --help lists what can be given"));
            match error.kind() {
                // Nobody's command.
                ErrorKind::InvalidSubcommand => Status::Usage.into(),
                _ => status(Status::Usage),
            }
        }
    }
}

/// The status of a bad command line: `boot`'s own for that, for containers Docker's.
fn status(of_boot: Status) -> u8 {
    match std::env::args_os().nth(1) {
        Some(command)
            if command != "boot" && command != "doctor" && !command.as_encoded_bytes().starts_with(b"-") =>
        {
            STATUS_FAILED
        }
        _ => of_boot.into(),
    }
}

/// A value of these has the same status whether it can be read or not.
fn of_flag(flag: &str) -> Status {
    match flag {
        "--memory" => Status::Memory,
        "--cpus" => Status::Cpus,
        _ => Status::Usage,
    }
}

fn context(error: &Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}
