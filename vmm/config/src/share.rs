//! Directories, and files, of the host that a VM shares.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};

/// The name of a file that is shared alone.
pub const SHARED_FILE: &str = "file";

/// A directory of the host, seen by the guest as a file system (virtio-fs) that it mounts by the tag; or one file, which
/// is then alone in this file system, as [`crate::SHARED_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The directory, or the file.
    pub path: PathBuf,
    /// It is a file.
    #[serde(default)]
    pub file: bool,
    /// Its name in the guest: 1 to [`crate::MAX_TAG`] bytes.
    pub tag: String,
    /// Refuse whatever would change something.
    #[serde(default)]
    pub read_only: bool,
    /// What the guest keeps of it.
    #[serde(default)]
    pub cache: CachePolicy,
}

/// What a guest may keep of a shared directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachePolicy {
    /// Names and attributes for a second, contents until a file is opened anew or is seen to have changed.
    #[default]
    Auto,
    /// Nothing.
    Never,
}

impl FromStr for CachePolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            _ => Err("auto or never is expected"),
        }
    }
}

/// `PATH,tag=NAME[,file][,ro][,cache=auto|never]`
impl FromStr for Share {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut share = Self {
            path: PathBuf::new(),
            file: false,
            tag: String::new(),
            read_only: false,
            cache: CachePolicy::default(),
        };
        for (key, given) in pairs(text, "path") {
            match key {
                "path" => share.path = value("path", given)?,
                "tag" => share.tag = value("tag", given)?,
                "file" => share.file = flag("file", given)?,
                "ro" => share.read_only = flag("ro", given)?,
                "cache" => share.cache = value("cache", given)?,
                _ => {
                    let known = "path, tag, file, ro, cache";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        match (share.path.as_os_str().is_empty(), share.tag.is_empty()) {
            (true, _) => Err(OptionError::MissingKey("path")),
            (_, true) => Err(OptionError::MissingKey("tag")),
            _ => Ok(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_path_with_a_tag() {
        let share: Share = "/srv/data,tag=data,ro,cache=never".parse().expect("it parses");
        let (path, tag) = ("/srv/data".into(), "data".to_owned());
        assert_eq!(share, Share { path, file: false, tag, read_only: true, cache: CachePolicy::Never });
        let share: Share = "/etc/hosts,tag=hosts,file".parse().expect("it parses");
        assert!(share.file && !share.read_only);
    }

    #[test]
    fn bad_options_are_named() {
        for (text, message) in [
            ("tag=a", "'path=' is missing"),
            ("/srv", "'tag=' is missing"),
            ("/srv,tag=", "'tag=' is missing"),
            ("/srv,tag=a,rw", "unknown key 'rw' (known: path, tag, file, ro, cache)"),
            ("/srv,tag=a,cache=always", "'cache' cannot be 'always': auto or never is expected"),
        ] {
            let error = text.parse::<Share>().map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
    }
}
