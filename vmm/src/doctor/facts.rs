//! What `rvm doctor` looks at. Nothing here judges.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group};

use super::kvm::{self, Probe};

/// The host, as far as virtual machines care.
#[derive(Debug)]
pub struct Facts {
    /// What became of trying KVM.
    pub kvm: Result<Probe, kvm::Error>,
    /// The group whose members may open KVM's device, where others than this user may.
    pub kvm_group: Option<String>,
    /// The processor offers VMX or SVM.
    pub cpu_has_virtualization: bool,
    /// The release of the kernel, as `uname -r` has it.
    pub kernel: String,
    pub tun: Device,
    /// This kernel has AF_VSOCK.
    pub host_vsock: bool,
    pub cgroup: Cgroup,
    pub settings: Settings,
}

/// What opening a device node came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Usable,
    Denied,
    Missing,
}

/// Which cgroups the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroup {
    /// The unified hierarchy, at /sys/fs/cgroup.
    V2 {
        /// Its mount option of that name.
        favordynmods: bool,
    },
    /// The controllers are those of version 1.
    V1,
    None,
}

/// Kernel settings by their files; `None` where this kernel has no such file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// /sys/kernel/mm/transparent_hugepage/enabled: the word in brackets.
    pub huge_pages: Option<String>,
    /// `ept` of kvm_intel or `npt` of kvm_amd.
    pub nested_paging: Option<bool>,
    /// `nested` of kvm_intel or kvm_amd.
    pub nested: Option<bool>,
    /// `nx_huge_pages` of kvm.
    pub nx_huge_pages: Option<bool>,
    /// `halt_poll_ns` of kvm.
    pub halt_poll_ns: Option<u64>,
    /// The clock the kernel runs on.
    pub clocksource: Option<String>,
}

impl Facts {
    pub fn gather() -> Self {
        Self {
            kvm: kvm::probe(),
            kvm_group: group_with_access(Path::new("/dev/kvm")),
            cpu_has_virtualization: kvm::cpu_has_virtualization(),
            kernel: word(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_else(|| "unknown".to_owned()),
            tun: Device::open(Path::new("/dev/net/tun")),
            // The protocol's own entry: opening a socket would load the module, and a look changes nothing.
            host_vsock: Path::new("/dev/vsock").exists(),
            cgroup: Cgroup::in_mounts(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()),
            settings: Settings::below(Path::new("/sys")),
        }
    }
}

impl Device {
    fn open(node: &Path) -> Self {
        match OpenOptions::new().read(true).write(true).open(node) {
            Ok(_) => Self::Usable,
            Err(err) if err.kind() == ErrorKind::PermissionDenied => Self::Denied,
            Err(_) => Self::Missing,
        }
    }
}

impl Cgroup {
    /// From a table like /proc/mounts. A version 2 mounted elsewhere, beside version 1, has no controllers.
    fn in_mounts(table: &str) -> Self {
        let mut found = Self::None;
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[..] {
                [_, "/sys/fs/cgroup", "cgroup2", options, ..] => {
                    return Self::V2 {
                        favordynmods: options.split(',').any(|option| option == "favordynmods"),
                    };
                }
                [_, _, "cgroup", ..] => found = Self::V1,
                _ => {}
            }
        }
        found
    }
}

impl Settings {
    /// Reads them below `sys`, which is /sys.
    fn below(sys: &Path) -> Self {
        let module = |name: &str, parameter: &str| {
            word(&sys.join("module").join(name).join("parameters").join(parameter))
        };
        let intel_or_amd = |intel: &str, amd: &str| {
            module("kvm_intel", intel).or_else(|| module("kvm_amd", amd)).map(|value| is_on(&value))
        };
        Self {
            huge_pages: word(&sys.join("kernel/mm/transparent_hugepage/enabled"))
                .and_then(|choices| chosen(&choices)),
            nested_paging: intel_or_amd("ept", "npt"),
            nested: intel_or_amd("nested", "nested"),
            nx_huge_pages: module("kvm", "nx_huge_pages").map(|value| is_on(&value)),
            halt_poll_ns: module("kvm", "halt_poll_ns").and_then(|value| value.parse().ok()),
            clocksource: word(&sys.join("devices/system/clocksource/clocksource0/current_clocksource")),
        }
    }
}

/// The group whose members may open `node` for reading and writing, where not everybody may.
fn group_with_access(node: &Path) -> Option<String> {
    let node = fs::metadata(node).ok()?;
    if node.mode() & 0o066 != 0o060 {
        return None;
    }
    let group = Group::from_gid(Gid::from_raw(node.gid())).ok().flatten();
    Some(group.map_or_else(|| node.gid().to_string(), |group| group.name))
}

/// What a file of one line holds.
fn word(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

/// The one in brackets of `always [madvise] never`.
fn chosen(choices: &str) -> Option<String> {
    let (_, rest) = choices.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

/// A switch among module parameters: `Y`, `N`, or a number.
fn is_on(value: &str) -> bool {
    !matches!(value, "N" | "0" | "never")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Cgroup, Device, Settings, chosen, group_with_access};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use vmm_sys_util::tempdir::TempDir;

    #[test]
    fn the_hierarchy_at_the_usual_place_decides_the_version_of_cgroups() {
        let v2 = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(Cgroup::in_mounts(v2), Cgroup::V2 { favordynmods: false });
        let fast = "cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods,nsdelegate 0 0";
        assert_eq!(Cgroup::in_mounts(fast), Cgroup::V2 { favordynmods: true });
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0";
        assert_eq!(Cgroup::in_mounts(hybrid), Cgroup::V1);
        assert_eq!(Cgroup::in_mounts("proc /proc\n\ngarbage"), Cgroup::None);
    }

    #[test]
    fn the_chosen_word_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise"), None);
        assert_eq!(chosen("[always"), None);
    }

    #[test]
    fn settings_are_read_from_either_vendors_module() {
        let sys = TempDir::new().unwrap();
        let write = |file: &str, value: &str| {
            let file = sys.as_path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        };
        write("module/kvm_amd/parameters/npt", "N\n");
        write("module/kvm_amd/parameters/nested", "1\n");
        write("module/kvm/parameters/nx_huge_pages", "never\n");
        write("module/kvm/parameters/halt_poll_ns", "200000\n");
        write("kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");

        let expected = Settings {
            huge_pages: Some("never".to_owned()),
            nested_paging: Some(false),
            nested: Some(true),
            nx_huge_pages: Some(false),
            halt_poll_ns: Some(200_000),
            ..Settings::default()
        };
        assert_eq!(Settings::below(sys.as_path()), expected);
    }

    #[test]
    fn a_host_without_the_files_has_no_settings() {
        assert_eq!(Settings::below(Path::new("/nonexistent")), Settings::default());
    }

    #[test]
    fn a_group_helps_only_where_its_members_may_more_than_others() {
        let directory = TempDir::new().unwrap();
        let node = directory.as_path().join("node");
        fs::write(&node, "").unwrap();
        for (mode, helps) in [(0o660, true), (0o600, false), (0o640, false), (0o666, false)] {
            fs::set_permissions(&node, Permissions::from_mode(mode)).unwrap();
            assert_eq!(group_with_access(&node).is_some(), helps, "{mode:o}");
        }
        assert_eq!(group_with_access(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_missing_node_is_told_from_a_usable_one() {
        assert_eq!(Device::open(Path::new("/nonexistent")), Device::Missing);
        assert_eq!(Device::open(Path::new("/dev/null")), Device::Usable);
    }
}
