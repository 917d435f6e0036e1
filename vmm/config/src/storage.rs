//! Block devices of a VM.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};

/// A disk: a raw file or a block device of the host, seen by the guest as virtio-blk (`/dev/vda`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The file or block device. Its length is a multiple of 512 bytes.
    pub path: PathBuf,
    /// Open for reading only, and refuse the guest's writes.
    #[serde(default)]
    pub read_only: bool,
    /// What the guest reads as the disk's serial number; at most 20 bytes of ASCII.
    #[serde(default)]
    pub id: Option<String>,
    /// How the host reads and writes.
    #[serde(default)]
    pub engine: IoEngine,
}

/// How a disk's requests reach the host's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoEngine {
    /// io_uring where the host has it and the disk is not in memory anyway (tmpfs), else [`IoEngine::Sync`].
    #[default]
    Auto,
    /// io_uring; an error where the host does not have it.
    IoUring,
    /// One system call a request, one after the other.
    Sync,
}

impl FromStr for IoEngine {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "io-uring" => Ok(Self::IoUring),
            "sync" => Ok(Self::Sync),
            _ => Err("auto, io-uring or sync is expected"),
        }
    }
}

/// `PATH[,ro][,id=NAME][,engine=auto|io-uring|sync]`
impl FromStr for Disk {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut disk = Self { path: PathBuf::new(), read_only: false, id: None, engine: IoEngine::default() };
        for (key, given) in pairs(text, "path") {
            match key {
                "path" => disk.path = value("path", given)?,
                "ro" => disk.read_only = flag("ro", given)?,
                "id" => disk.id = Some(value("id", given)?),
                "engine" => disk.engine = value("engine", given)?,
                _ => {
                    let known = "path, ro, id, engine";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        match disk.path.as_os_str().is_empty() {
            true => Err(OptionError::MissingKey("path")),
            false => Ok(disk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_may_be_a_bare_path() {
        let disk: Disk = "/images/a.ext4,ro,id=root,engine=sync".parse().expect("it parses");
        let (path, id) = ("/images/a.ext4".into(), Some("root".to_owned()));
        assert_eq!(disk, Disk { path, read_only: true, id, engine: IoEngine::Sync });
    }

    #[test]
    fn bad_options_are_named() {
        for (text, message) in [
            ("path=,ro", "'path=' is missing"),
            ("a,rw", "unknown key 'rw' (known: path, ro, id, engine)"),
            ("a,ro=maybe", "'ro' cannot be 'maybe': on or off is expected"),
            ("a,engine=fast", "'engine' cannot be 'fast': auto, io-uring or sync is expected"),
        ] {
            let error = text.parse::<Disk>().map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
    }
}
