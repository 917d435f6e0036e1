//! The workspace's test and benchmark programs: has cargo build them and finds them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// A program that cargo built.
#[derive(Debug)]
pub struct Program {
    /// As reports call it: the package, and the target where that says more.
    pub suite: String,
    /// The name of cargo's target.
    pub target: String,
    pub file: PathBuf,
    /// The package's directory, which tests expect to run in.
    pub directory: PathBuf,
}

/// The part of cargo's JSON messages that is of use here.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Cargo, as from a shell. What `cargo run` tells us of this package is kept from it: some build scripts (ring's) look at that, and
/// all that depends on them would be compiled again by every `cargo` that is told something else than the one before.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"CARGO_PKG_") || name_bytes.starts_with(b"CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs `cargo ARGUMENTS --message-format=json` and gives the test or benchmark programs that it made.
pub fn build(arguments: &[&str]) -> io::Result<Vec<Program>> {
    let output = cargo()
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("cargo {} failed", arguments.join(" "))));
    }
    let mut programs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: CargoMessage = serde_json::from_slice(line)?;
        programs.extend(program(message));
    }
    Ok(programs)
}

fn program(message: CargoMessage) -> Option<Program> {
    let target = message.target?;
    let of_use = message.profile?.test || target.kind.iter().any(|kind| kind == "bench");
    if message.reason != "compiler-artifact" || !of_use {
        return None;
    }
    let directory = message.manifest_path?.parent()?.to_owned();
    let package = directory.file_name()?.to_string_lossy().into_owned();
    let suite = match target.kind.first().map(String::as_str) {
        Some("lib") => package,
        Some("bin") => format!("{package}/{}", target.name),
        _ => target.name.clone(),
    };
    Some(Program { suite, target: target.name, file: message.executable?, directory })
}
