//! Mount options, as words of mount(8): what the mount point is to be like, and what the file system is told.

use std::ffi::CString;

use crate::refusal::Refusal;
use crate::sys::mounting;

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// MOUNT_ATTR_*
    pub attributes: u64,
    /// Parameters of the file system, with a value or without.
    pub parameters: Vec<(CString, Option<CString>)>,
}

impl Options {
    /// Sorts the words.
    pub fn parse(words: &[String]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for word in words {
            match word.as_str() {
                "rw" | "suid" | "dev" | "exec" | "atime" | "relatime" | "defaults" => {}
                "ro" => options.attributes |= mounting::MOUNT_ATTR_RDONLY,
                "nosuid" => options.attributes |= mounting::MOUNT_ATTR_NOSUID,
                "nodev" => options.attributes |= mounting::MOUNT_ATTR_NODEV,
                "noexec" => options.attributes |= mounting::MOUNT_ATTR_NOEXEC,
                "noatime" => options.attributes |= mounting::MOUNT_ATTR_NOATIME,
                "strictatime" => options.attributes |= mounting::MOUNT_ATTR_STRICTATIME,
                "nodiratime" => options.attributes |= mounting::MOUNT_ATTR_NODIRATIME,
                other => options.parameters.push(parameter(other)?),
            }
        }
        Ok(options)
    }

    /// Whether it is to be read only.
    pub fn read_only(&self) -> bool {
        self.attributes & mounting::MOUNT_ATTR_RDONLY != 0
    }

    /// The attributes alone, for what takes no parameters.
    pub fn attributes_only(&self) -> Result<u64, Refusal> {
        match self.parameters.first() {
            None => Ok(self.attributes),
            Some((key, _)) => {
                let what = format!("the option {}", key.to_string_lossy());
                Err(Refusal::invalid(what, "a mount of this kind has no such option"))
            }
        }
    }
}

fn parameter(word: &str) -> Result<(CString, Option<CString>), Refusal> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    let refuse = || Refusal::invalid(format!("the option {word:?}"), "it has to be a word, or word=value");
    // "source" is what the request says in its own field.
    if key.is_empty() || key == "source" {
        return Err(refuse());
    }
    let value = value.map(CString::new).transpose().map_err(|_| refuse())?;
    Ok((CString::new(key).map_err(|_| refuse())?, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::Options;
    use crate::sys::mounting::{MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY};

    fn parse(words: &[&str]) -> Result<Options, crate::refusal::Refusal> {
        Options::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_the_mount_point_are_told_from_those_of_the_file_system() {
        let options = parse(&["ro", "nodev", "defaults", "metacopy=on", "volatile"]).unwrap();
        assert_eq!(options.attributes, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
        assert!(options.read_only());
        assert_eq!(
            options.parameters,
            [(c"metacopy".into(), Some(c"on".into())), (c"volatile".into(), None)]
        );
        assert!(options.attributes_only().is_err());
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for word in ["", "=x", "source=/dev/sda", "a\0b", "a=\0"] {
            assert!(parse(&[word]).is_err(), "{word:?}");
        }
    }
}
