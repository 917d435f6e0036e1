//! Docker's daemon.json: a short name for the runtime, `docker run --runtime rvm`. By its long name Docker finds it anyway.

use serde_json::{Map, Value, json};

use super::{InstallError, NAME, RUNTIME, Root, Step};

const FILE: &str = "/etc/docker/daemon.json";
const RUNTIMES: &str = "runtimes";
const DAEMONS: [&str; 2] = ["/usr/bin/dockerd", "/usr/sbin/dockerd"];

/// The steps for a host that has Docker; otherwise none.
pub fn install(root: &Root) -> Result<Vec<Step>, InstallError> {
    let there = read(root)?;
    if there.is_none() && !DAEMONS.iter().any(|path| root.at(path).exists()) {
        return Ok(Vec::new());
    }
    let mut all = there.unwrap_or_default();
    let runtimes = all.entry(RUNTIMES).or_insert_with(|| json!({}));
    let runtimes =
        runtimes.as_object_mut().ok_or_else(|| invalid(root, "its runtimes are no object".to_owned()))?;
    runtimes.insert(NAME.to_owned(), json!({ "runtimeType": RUNTIME }));
    let told =
        "Docker knows the runtime by its short name when it is started again: systemctl restart docker";
    let steps = [write(root, all, "the runtime's short name"), Step::Tell(told.to_owned())];
    Ok(steps.into_iter().filter(Step::is_needed).collect())
}

/// The steps of the removal.
pub fn uninstall(root: &Root) -> Result<Vec<Step>, InstallError> {
    let Some(mut all) = read(root)? else { return Ok(Vec::new()) };
    let Some(runtimes) = all.get_mut(RUNTIMES).and_then(Value::as_object_mut) else { return Ok(Vec::new()) };
    if runtimes.remove(NAME).is_none() {
        return Ok(Vec::new());
    }
    if runtimes.is_empty() {
        all.remove(RUNTIMES);
    }
    Ok(vec![match all.is_empty() {
        true => Step::Remove(root.at(FILE)),
        false => write(root, all, "without the runtime"),
    }])
}

fn read(root: &Root) -> Result<Option<Map<String, Value>>, InstallError> {
    let Some(text) = root.read(FILE)? else { return Ok(None) };
    if text.trim().is_empty() {
        return Ok(Some(Map::new()));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| invalid(root, error.to_string()))
}

fn invalid(root: &Root, reason: String) -> InstallError {
    InstallError::Configuration { path: root.at(FILE), reason }
}

fn write(root: &Root, all: Map<String, Value>, what: &'static str) -> Step {
    let text = format!("{:#}\n", Value::Object(all));
    Step::Write { path: root.at(FILE), text, what }
}
