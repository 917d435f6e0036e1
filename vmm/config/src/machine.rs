//! The machine: everything there is to say about a VM before it starts.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{OptionError, flag, pairs, value};
use crate::{Control, Disk, MemorySize, Net, Share, Vsock};

/// A virtual machine. Every field has a default: an empty object is a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmConfig {
    /// What the machine boots.
    pub kernel: Kernel,
    /// Virtual CPUs: 1 to [`crate::MAX_CPUS`].
    #[serde(deserialize_with = "crate::limits::cpus")]
    pub cpus: u8,
    /// Memory: [`crate::MIN_MEMORY`] to [`crate::MAX_MEMORY`].
    pub memory: MemorySize,
    /// Block devices, in the order the guest numbers them.
    pub disks: Vec<Disk>,
    /// Directories of the host, by their tags.
    pub shares: Vec<Share>,
    /// Network cards, in the order the guest numbers them.
    pub nets: Vec<Net>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// The memory balloon; `null` for none.
    pub balloon: Option<Balloon>,
    /// An entropy device.
    pub rng: bool,
    /// Where the serial console goes.
    pub console: Console,
    /// Confine every thread by a seccomp filter.
    pub seccomp: bool,
    /// How whoever starts the machine hears of it and directs it.
    pub control: Option<Control>,
}

/// What a machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// An ELF `vmlinux` or a `bzImage`, told apart by content. Without one, the kernel that comes with rvm.
    pub image: Option<PathBuf>,
    /// The initial RAM file system. Without one, and without `image`, the guest image that comes with rvm.
    pub initrd: Option<PathBuf>,
    /// Added to the kernel's command line; up to ` -- ` it is the kernel's, after it the first process's.
    pub cmdline: String,
    /// Leave out rvm's own part of the command line: `cmdline` is all of it.
    pub bare_cmdline: bool,
}

/// A memory balloon (virtio 1.2, section 5.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balloon {
    /// How much memory to take from the guest at start.
    pub size: MemorySize,
    /// Let the guest say which of its pages are free, and give those back to the host. Without a word, only a guest
    /// large enough does: see [`Balloon::reports_free_pages`].
    pub free_page_reporting: Option<bool>,
    /// Let the guest take memory back from the balloon rather than run out of it.
    pub deflate_on_oom: bool,
}

/// Where a machine's serial console goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Console {
    /// Standard input and output; raw when they are a terminal.
    #[default]
    Stdio,
    /// Output to this file, created or emptied; no input.
    File(PathBuf),
    /// Nowhere but to the [`Control`] socket: its last words, with the end of the machine or when asked for.
    Captured,
    /// Nowhere.
    None,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            kernel: Kernel::default(),
            cpus: 1,
            memory: MemorySize::from_mib(128),
            disks: Vec::new(),
            shares: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            balloon: Some(Balloon::default()),
            rng: true,
            console: Console::default(),
            seccomp: true,
            control: None,
        }
    }
}

impl Default for Balloon {
    fn default() -> Self {
        Self { size: MemorySize::from_mib(0), free_page_reporting: None, deflate_on_oom: true }
    }
}

impl Balloon {
    /// Whether a guest with this much memory may report free pages. Linux takes up to 32 blocks of 4 MiB off its free
    /// lists for as long as a report is under way: a guest of less than twice that has nothing left meanwhile, and
    /// may kill a process for it.
    pub fn reports_free_pages(&self, memory: MemorySize) -> bool {
        self.free_page_reporting.unwrap_or(memory >= MemorySize::from_mib(256))
    }
}

/// `SIZE[,reporting=on|off][,deflate-on-oom=off]`
impl FromStr for Balloon {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut balloon = Self::default();
        for (key, given) in pairs(text, "size") {
            match key {
                "size" => balloon.size = value("size", given)?,
                "reporting" => balloon.free_page_reporting = Some(flag("reporting", given)?),
                "deflate-on-oom" => balloon.deflate_on_oom = flag("deflate-on-oom", given)?,
                _ => {
                    let known = "size, reporting, deflate-on-oom";
                    return Err(OptionError::UnknownKey { key: key.to_owned(), known });
                }
            }
        }
        Ok(balloon)
    }
}

impl FromStr for Console {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "captured" => Ok(Self::Captured),
            None if text == "none" => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(OptionError::BadValue {
                key: "console",
                value: text.to_owned(),
                reason: "stdio, captured, none or file=PATH is expected".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default_machine() {
        let parsed: VmConfig = serde_json::from_str("{}").expect("it parses");
        assert_eq!(parsed, VmConfig::default());
    }

    #[test]
    fn only_a_guest_with_memory_to_spare_reports_free_pages_unasked() {
        let reports = |balloon: &str, mib| {
            let balloon: Balloon = balloon.parse().expect("it parses");
            balloon.reports_free_pages(MemorySize::from_mib(mib))
        };
        assert!(reports("0", 256) && !reports("0", 255));
        assert!(reports("0,reporting=on", 64) && !reports("0,reporting=off", 4096));
    }

    #[test]
    fn a_machine_survives_json() {
        let mut machine =
            VmConfig { cpus: 4, console: Console::File("/tmp/log".into()), ..Default::default() };
        machine.disks.push("/images/a,ro".parse().expect("it parses"));
        machine.shares.push("/srv,tag=data".parse().expect("it parses"));
        machine.nets.push("fd=5,mac=52:54:00:00:00:01".parse().expect("it parses"));
        machine.vsock = Some("/run/v.sock".parse().expect("it parses"));
        let text = serde_json::to_string(&machine).expect("it is written");
        assert_eq!(serde_json::from_str::<VmConfig>(&text).expect("it is read"), machine);
    }

    #[test]
    fn unknown_fields_are_refused_by_name_at_every_depth() {
        for text in [
            r#"{"cpu": 2}"#,
            r#"{"kernel": {"path": "x"}}"#,
            r#"{"disks": [{"path": "x", "readonly": true}]}"#,
            r#"{"shares": [{"path": "x", "tag": "t", "ro": true}]}"#,
            r#"{"nets": [{"tap": {"name": "t"}, "speed": 1}]}"#,
            r#"{"balloon": {"pages": 1}}"#,
            r#"{"vsock": {"socket": "x", "port": 1}}"#,
            r#"{"control": {"fd": 3, "path": "x"}}"#,
        ] {
            let error = serde_json::from_str::<VmConfig>(text).expect_err(text).to_string();
            assert!(error.contains("unknown field"), "{text}: {error}");
        }
    }
}
