//! The command line that containerd gives a shim: flags as Go's `flag` package reads them (one dash or two, `-name
//! value` or `-name=value`), then an action, or none for the daemon.

use std::path::PathBuf;

/// A command line that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No flag of a shim.
    #[error("there is no flag -{0}")]
    Unknown(String),
    /// Its value is missing.
    #[error("the flag -{0} needs a value")]
    NoValue(String),
    /// A switch that is neither on nor off.
    #[error("the flag -{name} is true or false, not '{value}'")]
    NoSwitch {
        /// The flag.
        name: String,
        /// What was given.
        value: String,
    },
    /// No action of a shim.
    #[error("there is no action '{0}'; start and delete are what a shim does")]
    Action(String),
    /// What every action needs.
    #[error("the flag -{0} is missing; it is containerd that starts a shim")]
    Missing(&'static str),
}

/// What the shim is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Say which version it is.
    Version,
    /// Say what it can do.
    Info,
    /// Start the daemon of a pod, or find it.
    Start,
    /// Clean up after a daemon that is gone.
    Delete,
    /// Be the daemon.
    #[default]
    Serve,
}

/// A command line. What is not kept here of what containerd gives (the programs and addresses of other ways to publish
/// events) is not needed: events go to the address in `TTRPC_ADDRESS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// The containerd namespace.
    pub namespace: String,
    /// The container; for the daemon, the pod.
    pub id: String,
    /// containerd's own socket: two of them on one host have shims of their own.
    pub address: String,
    /// The bundle, where the working directory is not it.
    pub bundle: Option<PathBuf>,
    /// Say more in the log: containerd does.
    pub debug: bool,
}

impl Flags {
    /// Reads a command line, without the program's name.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut words = words.into_iter();
        let mut action = None;
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                // What follows the action is the action's: shims have nothing there.
                action = Some(word);
                break;
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "v" | "version" if switch(name, given.as_deref())? => flags.action = Action::Version,
                "info" if switch(name, given.as_deref())? => flags.action = Action::Info,
                "debug" => flags.debug = switch(name, given.as_deref())?,
                "v" | "version" | "info" => {}
                _ => {
                    let value = given
                        .or_else(|| takes_value(name).then(|| words.next()).flatten())
                        .ok_or_else(|| match takes_value(name) {
                            true => FlagError::NoValue(name.to_owned()),
                            false => FlagError::Unknown(name.to_owned()),
                        })?;
                    flags.set(name, value)?;
                }
            }
        }
        flags.decide(action.as_deref())
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), FlagError> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = Some(value.into()),
            "publish-binary" | "socket" | "debug-socket" => {}
            _ => return Err(FlagError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn decide(mut self, action: Option<&str>) -> Result<Self, FlagError> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        self.action = match action {
            None => Action::Serve,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some(other) => return Err(FlagError::Action(other.to_owned())),
        };
        for (name, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            if value.is_empty() {
                return Err(FlagError::Missing(name));
            }
        }
        Ok(self)
    }
}

fn takes_value(name: &str) -> bool {
    matches!(name, "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket" | "debug-socket")
}

/// A flag without a value is on; these are the words that Go's strconv.ParseBool takes.
fn switch(name: &str, value: Option<&str>) -> Result<bool, FlagError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(FlagError::NoSwitch { name: name.to_owned(), value: value.to_owned() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_lines_of_containerd_are_understood() {
        let start = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id abc \
             -debug start",
        );
        let address = "/run/containerd/containerd.sock".to_owned();
        let (namespace, id) = ("k8s.io".to_owned(), "abc".to_owned());
        let expected = Flags { action: Action::Start, namespace, id, address, bundle: None, debug: true };
        assert_eq!(start.unwrap(), expected);

        let delete = parse("-namespace default -id abc -bundle /run/b delete").unwrap();
        assert_eq!((delete.action, delete.bundle), (Action::Delete, Some("/run/b".into())));
        assert_eq!(parse("--namespace=n --id=i -debug=false").unwrap().action, Action::Serve);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, error) in [
            ("-frob x start", FlagError::Unknown("frob".to_owned())),
            ("-namespace n -id", FlagError::NoValue("id".to_owned())),
            (
                "-debug=maybe start",
                FlagError::NoSwitch { name: "debug".to_owned(), value: "maybe".to_owned() },
            ),
            ("-namespace n -id i stop", FlagError::Action("stop".to_owned())),
            ("-id i start", FlagError::Missing("namespace")),
            ("-namespace n delete", FlagError::Missing("id")),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
