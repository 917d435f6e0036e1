//! `rvm inspect`: everything that is known of containers, as JSON.

use serde_json::{Value, json};

use super::control::NameArgs;
use super::{ContainerError, report};
use crate::state::Runtime;

/// Prints containers as a JSON array.
pub fn inspect(args: &NameArgs) -> u8 {
    report(
        text(args)
            .and_then(|text| super::super::print(&text).map_err(ContainerError::host("print")).map(|()| 0)),
    )
}

fn text(args: &NameArgs) -> Result<String, ContainerError> {
    let runtime = Runtime::open()?;
    let containers: Result<Vec<Value>, ContainerError> = args
        .names()
        .iter()
        .map(|name| {
            let (directory, record) = runtime.find(name)?;
            let status = directory.status()?;
            Ok(json!({ "record": record, "status": status, "directory": directory.path() }))
        })
        .collect();
    let json = serde_json::to_string_pretty(&containers?).map_err(std::io::Error::from);
    Ok(json.map_err(ContainerError::host("print"))? + "\n")
}
