//! Values of flags of `rvm run`, parsed and bounded: what they mean, without touching the host.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use rvm_config::{MAX_CPUS, MAX_MEMORY};
use rvm_sandbox::images::PullPolicy;
use rvm_sandbox::network::NetworkMode;

/// Least memory of a container, in bytes: Docker's.
const MIN_MEMORY: u64 = 6 << 20;
/// Least size of a disk, in bytes: ext4 takes some MiB for itself.
const MIN_STORAGE: u64 = 16 << 20;
/// Most size of a disk, in bytes: what ext4 has with blocks of 4 KiB.
const MAX_STORAGE: u64 = 16 << 40;

/// A number of bytes: `64m`, `1G`, `1073741824`; units b, k, m, g, t of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "a size is expected, as 64M or 2G";
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text.strip_prefix(digits).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(expected),
        };
        let count: u64 = digits.parse().map_err(|_| expected)?;
        count.checked_mul(1 << shift).map(Self).ok_or(expected)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let steps = u32::try_from(UNITS.len()).unwrap_or_default();
        let step = (0..steps).take_while(|step| self.0 >> (10 * step) > 0).last().unwrap_or(0);
        let unit = UNITS.get(usize::try_from(step).unwrap_or_default()).copied().unwrap_or_default();
        let whole = 1_u64 << (10 * step);
        match self.0 % whole {
            0 => write!(f, "{} {unit}", self.0 / whole),
            _ => {
                let tenths = u128::from(self.0) * 10 / u128::from(whole);
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
    }
}

impl Size {
    /// Whether a container may have so much memory.
    pub fn is_memory(self) -> Result<Self, String> {
        self.within(MIN_MEMORY..=MAX_MEMORY.bytes(), "give a container", "of memory", "-m")
    }

    /// Whether a container's disk may be so large.
    pub fn is_storage(self) -> Result<Self, String> {
        self.within(MIN_STORAGE..=MAX_STORAGE, "give a container a disk of", "", "--storage-size")
    }

    fn within(self, bounds: RangeInclusive<u64>, what: &str, of: &str, flag: &str) -> Result<Self, String> {
        if bounds.contains(&self.0) {
            return Ok(self);
        }
        let space = if of.is_empty() { "" } else { " " };
        let (least, most) = (Self(*bounds.start()), Self(*bounds.end()));
        Err(format!(
            "cannot {what} {self}{space}{of}: {least} to {most} is possible; give another size with {flag}"
        ))
    }
}

/// Processors, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus(u32);

impl Cpus {
    /// One processor.
    pub const ONE: Self = Self(1000);

    /// Whole processors that hold it.
    pub fn vcpus(self) -> u8 {
        u8::try_from(self.0.div_ceil(1000)).unwrap_or(MAX_CPUS)
    }

    /// Microseconds of processor time in each [`Self::PERIOD`], where it is not whole processors.
    pub fn quota(self) -> Option<u32> {
        (!self.0.is_multiple_of(1000)).then_some(self.0 * (Self::PERIOD / 1000))
    }

    /// Microseconds.
    pub const PERIOD: u32 = 100_000;
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: f64 = text.parse().map_err(|_| "a number is expected, as 1 or 1.5".to_owned())?;
        let bounds = 0.01..=f64::from(MAX_CPUS);
        if !bounds.contains(&number) {
            return Err(format!("a container has 0.01 to {MAX_CPUS} processors"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number is in bounds")]
        Ok(Self((number * 1000.0).round() as u32))
    }
}

/// `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub NetworkMode);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(NetworkMode::None)),
            "default" | "bridge" => Ok(Self(NetworkMode::Default)),
            "host" => Err("a virtual machine cannot use the host's network; default or none is expected"),
            _ => Err("default or none is expected"),
        }
    }
}

/// `--pull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull(pub PullPolicy);

impl FromStr for Pull {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self(PullPolicy::Always)),
            "missing" => Ok(Self(PullPolicy::Missing)),
            "never" => Ok(Self(PullPolicy::Never)),
            _ => Err("always, missing or never is expected"),
        }
    }
}

/// `--volume SOURCE:DESTINATION[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// What is shared.
    pub source: VolumeSource,
    /// Absolute path in the container.
    pub destination: String,
    /// The guest cannot write.
    pub read_only: bool,
}

/// What a volume is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory, or a file.
    Path(PathBuf),
    /// A directory that rvm keeps under this name, made on first use.
    Named(String),
}

impl FromStr for VolumeMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (Some(source), Some(destination), mode, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("SOURCE:DESTINATION[:ro] is expected".to_owned());
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => return Err(format!("'{other}' is no mode of a volume: ro or rw is expected")),
        };
        if !destination.starts_with('/') || destination == "/" {
            return Err(format!("'{destination}' is no place for a volume: an absolute path is expected"));
        }
        let source = match source {
            "" => return Err("the source is missing".to_owned()),
            path if path.starts_with(['/', '.', '~']) => VolumeSource::Path(path.into()),
            name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) => {
                VolumeSource::Named(name.to_owned())
            }
            other => {
                return Err(format!(
                    "'{other}' is no name of a volume; a path begins with '/' or './', a name has letters, digits and _.- only"
                ));
            }
        };
        Ok(Self { source, destination: destination.to_owned(), read_only })
    }
}

/// `--tmpfs DESTINATION[:OPTIONS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub destination: String,
    /// As mount(8) takes them.
    pub options: Vec<String>,
}

impl FromStr for TmpfsMount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (destination, options) = text.split_once(':').unwrap_or((text, ""));
        match destination.starts_with('/') && destination != "/" {
            true => Ok(Self {
                destination: destination.to_owned(),
                options: options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
            }),
            false => Err("DESTINATION[:OPTIONS] is expected, the destination an absolute path"),
        }
    }
}

/// `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    /// No program gains privileges by being executed.
    NoNewPrivileges,
    /// No system call filter.
    SeccompUnconfined,
    /// The filter that a file describes.
    Seccomp(PathBuf),
    /// No path of /proc and /sys is masked or read-only.
    SystemPathsUnconfined,
}

impl FromStr for SecurityOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(['=', ':']) {
            None if text == "no-new-privileges" => Ok(Self::NoNewPrivileges),
            Some(("no-new-privileges", "true")) => Ok(Self::NoNewPrivileges),
            Some(("seccomp", "unconfined")) => Ok(Self::SeccompUnconfined),
            Some(("seccomp", file)) if !file.is_empty() => Ok(Self::Seccomp(file.into())),
            Some(("systempaths", "unconfined")) => Ok(Self::SystemPathsUnconfined),
            _ => Err(
                "no-new-privileges, seccomp=FILE, seccomp=unconfined or systempaths=unconfined is expected; \
                      the guest has neither AppArmor nor SELinux"
                    .to_owned(),
            ),
        }
    }
}

/// `--ulimit NAME=SOFT[:HARD]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// As the OCI specification has it, "RLIMIT_NOFILE".
    pub name: String,
    /// The limit in force.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// Resource limits by their names in Docker.
const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, limits) = text.split_once('=').ok_or("NAME=SOFT[:HARD] is expected")?;
        if !ULIMITS.contains(&name) {
            return Err(format!("'{name}' is no limit (known: {})", ULIMITS.join(", ")));
        }
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (limit(soft)?, limit(hard)?);
        match soft <= hard {
            true => Ok(Self { name: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard }),
            false => Err("the soft limit is above the hard one".to_owned()),
        }
    }
}

fn limit(text: &str) -> Result<u64, String> {
    match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        number => number.parse().map_err(|_| format!("'{number}' is no number")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them_and_shown_in_one_unit() {
        for (text, bytes, shown) in [
            ("1048576", 1 << 20, "1 MiB"),
            ("64m", 64 << 20, "64 MiB"),
            ("2G", 2 << 30, "2 GiB"),
            ("1500k", 1500 << 10, "1.4 MiB"),
            ("0", 0, "0 B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
        }
        for text in ["", "m", "-1", "1.5g", "12x", "99999999999999999999", "16777216t"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert!("5M".parse::<Size>().unwrap().is_memory().is_err());
        assert!("6M".parse::<Size>().unwrap().is_memory().is_ok());
    }

    #[test]
    fn processors_may_be_parts() {
        let cpus = |text: &str| text.parse::<Cpus>().map(|cpus| (cpus.vcpus(), cpus.quota()));
        assert_eq!(cpus("1"), Ok((1, None)));
        assert_eq!(cpus("1.5"), Ok((2, Some(150_000))));
        assert_eq!(cpus("0.25"), Ok((1, Some(25_000))));
        for text in ["0", "-1", "33", "NaN", "one"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_are_paths_or_names() {
        let volume = |text: &str| text.parse::<VolumeMount>();
        let (source, destination) = (VolumeSource::Path("/a".into()), "/b".to_owned());
        assert_eq!(volume("/a:/b:ro"), Ok(VolumeMount { source, destination, read_only: true }));
        assert_eq!(volume("data:/b").unwrap().source, VolumeSource::Named("data".into()));
        assert_eq!(volume("./x:/b").unwrap().source, VolumeSource::Path("./x".into()));
        for text in ["", "/a", "/a:b", "/a:/", "a/b:/c", ":/c", "/a:/b:z", "/a:/b:ro:x"] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_have_dockers_names() {
        let ulimit = "nofile=1024:-1".parse::<Ulimit>();
        assert_eq!(ulimit, Ok(Ulimit { name: "RLIMIT_NOFILE".into(), soft: 1024, hard: u64::MAX }));
        for text in ["nofile", "files=1", "nofile=2:1", "nofile=x"] {
            assert!(text.parse::<Ulimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_guest_cannot_do_is_refused() {
        for text in ["apparmor=x", "label=disable", "seccomp=", "no-new-privileges=false"] {
            assert!(text.parse::<SecurityOption>().is_err(), "{text}");
        }
        assert!("host".parse::<Network>().unwrap_err().contains("host's network"));
    }
}
