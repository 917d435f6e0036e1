//! containerd's configuration: a drop-in that names the runtime for pods, and the line that has it read.
//!
//! `ctr` and Docker find the shim by the runtime's name alone; CRI wants it in its configuration. Where the runtimes are in
//! there depends on the version of the configuration (containerd's docs/cri/config.md): 2 until containerd 1.7, 3 since 2.0.

use std::process::Command;

use toml_edit::{Array, DocumentMut, value};

use super::{InstallError, NAME, RUNTIME, Root, Step};

const MAIN: &str = "/etc/containerd/config.toml";
const DROP_IN: &str = "/etc/containerd/conf.d/rvm.toml";
const ALL: &str = "/etc/containerd/conf.d/*.toml";
const IMPORTS: &str = "imports";

/// The key of CRI's plugin, by the version of the configuration.
fn plugin(version: i64) -> Option<&'static str> {
    match version {
        2 => Some("io.containerd.grpc.v1.cri"),
        3.. => Some("io.containerd.cri.v1.runtime"),
        _ => None,
    }
}

/// The steps for a host that has containerd; otherwise none.
pub fn install(root: &Root) -> Result<Vec<Step>, InstallError> {
    let main = root.read(MAIN)?;
    if main.is_none() && !has_containerd(root) {
        return Ok(Vec::new());
    }
    let path = root.at(MAIN);
    let invalid = |reason: String| InstallError::Configuration { path: path.clone(), reason };
    let mut document: DocumentMut =
        main.unwrap_or_default().parse().map_err(|error: toml_edit::TomlError| invalid(error.to_string()))?;
    let version = match document.get("version") {
        Some(version) => {
            version.as_integer().ok_or_else(|| invalid("its version is no number".to_owned()))?
        }
        None if document.is_empty() => installed_version(),
        None => 1,
    };
    let Some(plugin) = plugin(version) else {
        let reason = format!(
            "it has version {version}, which knows no such runtimes; see `containerd config migrate`"
        );
        return Err(invalid(reason));
    };
    let text = format!(
        "# Written by `rvm install`: runtimeClassName: {NAME} in pods.\nversion = {version}\n\n\
         [plugins.'{plugin}'.containerd.runtimes.{NAME}]\n  runtime_type = \"{RUNTIME}\"\n"
    );
    let mut steps = vec![Step::Write { path: root.at(DROP_IN), text, what: "the runtime for pods" }];
    if import(&mut document, version).map_err(invalid)? {
        let text = document.to_string();
        steps.push(Step::Write { path: root.at(MAIN), text, what: "import what is in conf.d" });
    }
    steps.push(Step::Tell(
        "containerd knows the runtime when it is started again: systemctl restart containerd".into(),
    ));
    Ok(steps)
}

/// Has the drop-in read; whether that is new.
fn import(document: &mut DocumentMut, version: i64) -> Result<bool, String> {
    if document.get("version").is_none() {
        document.insert("version", value(version));
    }
    let Some(imports) = document.get_mut(IMPORTS) else {
        document.insert(IMPORTS, value(Array::from_iter([ALL])));
        return Ok(true);
    };
    let imports = imports.as_array_mut().ok_or_else(|| format!("its {IMPORTS} are no list"))?;
    if imports.iter().any(|import| import.as_str().is_some_and(|import| import == ALL || import == DROP_IN)) {
        return Ok(false);
    }
    imports.push(ALL);
    Ok(true)
}

/// The steps of the removal. That conf.d is read stays: others may have files there.
pub fn uninstall(root: &Root) -> Vec<Step> {
    vec![Step::Remove(root.at(DROP_IN))]
}

fn has_containerd(root: &Root) -> bool {
    ["/usr/bin/containerd", "/usr/local/bin/containerd"].iter().any(|path| root.at(path).exists())
}

/// The version of the configuration that the installed containerd takes for its own.
fn installed_version() -> i64 {
    let output = Command::new("containerd").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    version_of(&text)
}

/// The same from what `containerd --version` says: `containerd github.com/containerd/containerd/v2 2.1.4 REVISION`.
fn version_of(text: &str) -> i64 {
    let numbers = text.split_whitespace().filter_map(|word| {
        let (major, rest) = word.trim_start_matches('v').split_once('.')?;
        rest.starts_with(|first: char| first.is_ascii_digit()).then(|| major.parse::<i64>().ok())?
    });
    match numbers.into_iter().next() {
        Some(..=1) => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn the_version_of_the_configuration_is_told_from_containerds() {
        assert_eq!(version_of("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6"), 2);
        assert_eq!(version_of("containerd github.com/containerd/containerd/v2 2.1.4 2.1.4~ds2-3"), 3);
        assert_eq!(version_of("containerd github.com/containerd/containerd v1.6.20 abc"), 2);
        assert_eq!(version_of(""), 3);
    }
}
