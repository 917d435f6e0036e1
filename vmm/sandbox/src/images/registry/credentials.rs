//! Names and passwords, from where `docker login` saved them.
//!
//! `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`; then podman's `$REGISTRY_AUTH_FILE`. In it: a helper
//! for the registry (`credHelpers`), the password itself (`auths`), a helper for all (`credsStore`), in this order.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::RegistryError;

/// The name of Docker Hub in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What somebody is known by.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// For a token server: what it gave at login.
    Token(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// Name, colon, password, in base 64.
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The files in which credentials are looked up.
pub fn files() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
    let docker = docker.map(|directory| directory.join("config.json"));
    docker.into_iter().chain(set("REGISTRY_AUTH_FILE")).collect()
}

/// The credentials for a registry in the first of `files` that has some.
pub fn find(files: &[PathBuf], registry: &str) -> Result<Option<Credentials>, RegistryError> {
    for file in files {
        let failed = |why: String| RegistryError::Credentials {
            registry: registry.to_owned(),
            why: format!("'{}': {why}", file.display()),
        };
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error.to_string())),
        };
        let config: Config = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        if let Some(credentials) = config.find(registry).map_err(failed)? {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

impl Config {
    fn find(&self, registry: &str) -> Result<Option<Credentials>, String> {
        let names = names(registry);
        if let Some(helper) = names.iter().find_map(|name| self.cred_helpers.get(name)) {
            return ask(helper, &names);
        }
        for auth in names.iter().filter_map(|name| self.auths.get(name)) {
            if let Some(credentials) = auth.credentials()? {
                return Ok(Some(credentials));
            }
        }
        if self.creds_store.is_empty() { Ok(None) } else { ask(&self.creds_store, &names) }
    }
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Token(self.identitytoken.clone())));
        }
        if !self.username.is_empty() {
            let (user, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Credentials::Password { user, password }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let decoded = STANDARD.decode(&self.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("an 'auth' in it is not base 64")?;
        let (user, password) = decoded.split_once(':').ok_or("an 'auth' in it has no password")?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credentials::Password { user: user.to_owned(), password }))
    }
}

/// What a registry may be called in these files.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}"), format!("http://{registry}")];
    if registry == "docker.io" {
        names.insert(0, DOCKER_HUB.to_owned());
    }
    names
}

/// Asks a helper: the program `docker-credential-NAME`.
fn ask(helper: &str, names: &[String]) -> Result<Option<Credentials>, String> {
    if helper.contains('/') {
        return Err(format!("'{helper}' is no name of a credential helper"));
    }
    let program = format!("docker-credential-{helper}");
    for name in names {
        let mut command = Command::new(&program);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
        // One that ends without reading does not know the registry, and says so by its status.
        child.stdin.take().and_then(|mut stdin| stdin.write_all(name.as_bytes()).ok());
        let output =
            child.wait_with_output().map_err(|error| format!("cannot wait for {program}: {error}"))?;
        if output.status.success() {
            let helped: Helped = serde_json::from_slice(&output.stdout)
                .map_err(|error| format!("{program} prints what cannot be understood: {error}"))?;
            return Ok(Some(match helped.username.as_str() {
                "<token>" => Credentials::Token(helped.secret),
                _ => Credentials::Password { user: helped.username, password: helped.secret },
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn passwords_are_found_by_the_registrys_names() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
            "r:5000": {"username": "u", "password": "p"},
            "https://t": {"identitytoken": "refresh"},
            "empty": {}
        }}"#;
        let config: Config = serde_json::from_str(config).expect("a configuration");
        assert_eq!(config.find("docker.io"), Ok(password("hub", "secret")));
        assert_eq!(config.find("r:5000"), Ok(password("u", "p")));
        assert_eq!(config.find("t"), Ok(Some(Credentials::Token("refresh".into()))));
        assert_eq!(config.find("empty"), Ok(None));
        assert_eq!(config.find("other"), Ok(None));
    }

    #[test]
    fn a_broken_entry_is_told() {
        for auth in ["?", "bm8gY29sb24="] {
            let config: Config = serde_json::from_value(serde_json::json!({"auths": {"r": {"auth": auth}}}))
                .expect("a configuration");
            assert!(config.find("r").is_err(), "{auth}");
        }
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let config: Config = serde_json::from_str(r#"{"credsStore": "rvm-none"}"#).expect("a configuration");
        let error = config.find("r").expect_err("there is no such program");
        assert!(error.starts_with("cannot run docker-credential-rvm-none: "), "{error}");
    }
}
