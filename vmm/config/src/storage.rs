//! Block devices of a VM.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};

/// Most images that one disk is made of.
pub const MAX_DISK_PARTS: usize = 128;

/// A disk, seen by the guest as virtio-blk (`/dev/vda`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Disk {
    /// What is on it.
    pub source: DiskSource,
    /// Open for reading only, and refuse the guest's writes.
    pub read_only: bool,
    /// What the guest reads as the disk's serial number; at most 20 bytes of ASCII.
    pub id: Option<String>,
    /// How the host reads and writes.
    pub engine: IoEngine,
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// A raw file or a block device of the host. Its length is a multiple of 512 bytes.
    Path(PathBuf),
    /// Images, 1 to [`MAX_DISK_PARTS`], each of which is a partition (`/dev/vda1`, ...), in their order. Such a disk is
    /// read-only.
    Parts(Vec<PathBuf>),
    /// Nothing, until something is attached while the VM runs ([`crate::control::Command::AttachDisk`]): the disk is
    /// there from the start, of no size. It needs an `id`.
    Placeholder,
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

/// A disk as it is written in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<PathBuf>>,
    #[serde(skip_serializing_if = "is_false")]
    placeholder: bool,
    read_only: bool,
    id: Option<String>,
    engine: IoEngine,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A disk with no source, or with two.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a disk has exactly one of `path`, `parts` and `placeholder`")]
struct OneSource;

impl TryFrom<Written> for Disk {
    type Error = OneSource;

    fn try_from(written: Written) -> Result<Self, OneSource> {
        let Written { path, parts, placeholder, read_only, id, engine } = written;
        let source = match (path, parts, placeholder) {
            (Some(path), None, false) => DiskSource::Path(path),
            (None, Some(parts), false) => DiskSource::Parts(parts),
            (None, None, true) => DiskSource::Placeholder,
            _ => return Err(OneSource),
        };
        Ok(Self { source, read_only, id, engine })
    }
}

impl From<Disk> for Written {
    fn from(disk: Disk) -> Self {
        let Disk { source, read_only, id, engine } = disk;
        let written = Self { read_only, id, engine, ..Self::default() };
        match source {
            DiskSource::Path(path) => Self { path: Some(path), ..written },
            DiskSource::Parts(parts) => Self { parts: Some(parts), ..written },
            DiskSource::Placeholder => Self { placeholder: true, ..written },
        }
    }
}

impl Disk {
    /// Whether the guest can only read it.
    pub fn is_read_only(&self) -> bool {
        self.read_only || matches!(self.source, DiskSource::Parts(_))
    }
}

impl fmt::Display for Disk {
    /// The disk as messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.id) {
            (DiskSource::Path(path), _) => path.display().fmt(f),
            (_, Some(id)) => id.fmt(f),
            (DiskSource::Parts(parts), None) => match parts.first() {
                Some(first) => write!(f, "{}:...", first.display()),
                None => "of no parts".fmt(f),
            },
            (DiskSource::Placeholder, None) => "placeholder".fmt(f),
        }
    }
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

/// `PATH[,ro][,id=NAME][,engine=auto|io-uring|sync]`, with `parts=A:B:C` or `placeholder=on` instead of the bare path.
impl FromStr for Disk {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut sources = Vec::new();
        let (mut read_only, mut id, mut engine) = (false, None, IoEngine::default());
        for (key, given) in pairs(text, "path") {
            match key {
                "path" => sources.push(("path", DiskSource::Path(value("path", given)?))),
                "parts" => sources.push(("parts", DiskSource::Parts(parts(given)))),
                "placeholder" if flag("placeholder", given)? => {
                    sources.push(("placeholder", DiskSource::Placeholder));
                }
                "placeholder" => {}
                "ro" => read_only = flag("ro", given)?,
                "id" => id = Some(value("id", given)?),
                "engine" => engine = value("engine", given)?,
                _ => {
                    let known = "path, parts, placeholder, ro, id, engine";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        let mut sources = sources.into_iter();
        match (sources.next(), sources.next()) {
            (Some((one, _)), Some((other, _))) => Err(OptionError::Exclusive(one, other)),
            (Some((_, DiskSource::Path(path))), None) if path.as_os_str().is_empty() => {
                Err(OptionError::MissingKey("path"))
            }
            (Some((_, source)), None) => Ok(Self { source, read_only, id, engine }),
            (None, _) => Err(OptionError::MissingKey("path")),
        }
    }
}

fn parts(given: Option<&str>) -> Vec<PathBuf> {
    given.unwrap_or_default().split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_may_be_a_bare_path() {
        let disk: Disk = "/images/a.ext4,ro,id=root,engine=sync".parse().expect("it parses");
        let (source, id) = (DiskSource::Path("/images/a.ext4".into()), Some("root".to_owned()));
        assert_eq!(disk, Disk { source, read_only: true, id, engine: IoEngine::Sync });
    }

    #[test]
    fn a_disk_may_be_made_of_parts_or_of_nothing_yet() {
        let source = |text: &str| text.parse().map(|disk: Disk| disk.source);
        assert_eq!(source("parts=a:b/c"), Ok(DiskSource::Parts(vec!["a".into(), "b/c".into()])));
        assert_eq!(source("placeholder=on,id=x,ro"), Ok(DiskSource::Placeholder));
    }

    #[test]
    fn a_disk_in_json_has_one_source() {
        for text in [
            r#"{"path":"a","read_only":true,"id":null,"engine":"sync"}"#,
            r#"{"parts":["a","b"],"read_only":false,"id":"x","engine":"auto"}"#,
            r#"{"placeholder":true,"read_only":false,"id":"x","engine":"auto"}"#,
        ] {
            let disk: Disk = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&disk).expect("it is written"), text);
        }
        for text in ["{}", r#"{"path":"a","parts":["b"]}"#, r#"{"path":"a","placeholder":true}"#] {
            let error = serde_json::from_str::<Disk>(text).expect_err(text).to_string();
            assert!(error.starts_with("a disk has exactly one of"), "{error}");
        }
    }

    #[test]
    fn bad_options_are_named() {
        for (text, message) in [
            ("path=,ro", "'path=' is missing"),
            ("placeholder=off", "'path=' is missing"),
            ("a,parts=b", "'path' and 'parts' exclude each other"),
            ("a,rw", "unknown key 'rw' (known: path, parts, placeholder, ro, id, engine)"),
            ("a,ro=maybe", "'ro' cannot be 'maybe': on or off is expected"),
            ("a,engine=fast", "'engine' cannot be 'fast': auto, io-uring or sync is expected"),
        ] {
            let error = text.parse::<Disk>().map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
    }
}
