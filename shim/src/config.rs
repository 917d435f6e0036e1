//! The shim's configuration, by the host's administrator: `/etc/rvm/config.toml` and the files of `/etc/rvm/conf.d` behind
//! it, or the one file that the runtime options name (`ConfigPath`). Read for every pod; docs/shim.md has all keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::CodedInputStream;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rvm_config::{MAX_CPUS, MIN_MEMORY, MemorySize};
use serde::Deserialize;

use crate::error::ShimError;

const MAIN: &str = "/etc/rvm/config.toml";
const DROP_INS: &str = "/etc/rvm/conf.d";

/// Longest kernel parameters; the guest's kernel takes 2048 bytes with rvm's own.
const MAX_PARAMETERS: usize = 1024;

/// What the files say; each field may be missing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Processors of a pod whose containers have no limit.
    pub cpus: Option<Cpus>,
    /// Memory of a pod whose containers have no limit.
    pub memory: Option<MemorySize>,
    /// Memory that every guest has beyond its containers'.
    pub guest_memory: Option<MemorySize>,
    /// Interfaces that a container may be given while it runs.
    pub spare_cards: Option<SpareCards>,
    /// Containers with root file systems of images that may come beside the first.
    pub spare_roots: Option<SpareRoots>,
    /// Another guest kernel.
    pub kernel: Option<PathBuf>,
    /// Another guest image.
    pub image: Option<PathBuf>,
    /// More parameters of the guest's kernel.
    pub kernel_parameters: Option<Parameters>,
    /// Annotations by which a pod may choose for itself.
    pub annotations: Option<Vec<Annotation>>,
}

/// Processors of a machine.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "i64")]
pub struct Cpus(pub u8);

impl TryFrom<i64> for Cpus {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let cpus = u8::try_from(number).ok().filter(|cpus| (1..=MAX_CPUS).contains(cpus));
        cpus.map(Self).ok_or_else(|| format!("a machine has 1 to {MAX_CPUS} processors, not {number}"))
    }
}

/// Network cards beyond those in use.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "i64")]
pub struct SpareCards(pub usize);

impl TryFrom<i64> for SpareCards {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let cards = usize::try_from(number).ok().filter(|cards| *cards <= 8);
        cards.map(Self).ok_or_else(|| format!("0 to 8 network cards can be spare, not {number}"))
    }
}

/// Root file systems of images beyond the first container's.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "i64")]
pub struct SpareRoots(pub usize);

impl TryFrom<i64> for SpareRoots {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let roots = usize::try_from(number).ok().filter(|roots| *roots <= 4);
        roots.map(Self).ok_or_else(|| format!("0 to 4 root file systems can be spare, not {number}"))
    }
}

/// Words for the guest's kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Parameters(pub String);

impl TryFrom<String> for Parameters {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Behind " -- " stand the first process's words.
        let plain = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        match plain && text.len() <= MAX_PARAMETERS && !text.split(' ').any(|word| word == "--") {
            true => Ok(Self(text)),
            false => Err(format!(
                "kernel parameters are words of printable characters, {MAX_PARAMETERS} at most, and not '--'"
            )),
        }
    }
}

/// How the names of annotations begin that mean something to the shim.
pub const OWN_ANNOTATIONS: &str = "io.rvm.";

/// Refuses names of annotations that begin as ours and are none of them.
pub fn check_annotations<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), ShimError> {
    let is_unknown = |name: &&str| {
        name.starts_with(OWN_ANNOTATIONS) && Annotation::ALL.iter().all(|known| known.name() != *name)
    };
    names.into_iter().find(is_unknown).map_or(Ok(()), |name| {
        let known = Annotation::ALL.map(Annotation::name).join(", ");
        Err(ShimError::Invalid {
            what: "the pod's annotations",
            reason: format!("there is no '{name}'; those of rvm are {known}"),
        })
    })
}

/// An annotation of a pod that means something to the shim.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Annotation {
    /// Processors of the machine.
    #[serde(rename = "io.rvm.cpus")]
    Cpus,
    /// Memory of the machine.
    #[serde(rename = "io.rvm.memory")]
    Memory,
    /// More parameters of the guest's kernel.
    #[serde(rename = "io.rvm.kernel-parameters")]
    KernelParameters,
}

impl Annotation {
    /// All of them.
    const ALL: [Self; 3] = [Self::Cpus, Self::Memory, Self::KernelParameters];

    /// Its name in a pod.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpus => "io.rvm.cpus",
            Self::Memory => "io.rvm.memory",
            Self::KernelParameters => "io.rvm.kernel-parameters",
        }
    }
}

impl Config {
    /// The host's configuration, or the one in the file `chosen`.
    pub fn load(chosen: Option<&Path>) -> Result<Self, ShimError> {
        match chosen {
            Some(path) => Self::read(path),
            None => Self::of_host(Path::new(MAIN), Path::new(DROP_INS)),
        }
    }

    /// The main file's and, over it, those of the drop-ins in the order of their names.
    fn of_host(main: &Path, drop_ins: &Path) -> Result<Self, ShimError> {
        let mut config = match main.exists() {
            true => Self::read(main)?,
            false => Self::default(),
        };
        let entries = match fs::read_dir(drop_ins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(config),
            entries => entries.map_err(ShimError::path("read", drop_ins))?,
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            config.change(Self::read(&path)?);
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, ShimError> {
        let text = fs::read_to_string(path).map_err(ShimError::path("read the configuration", path))?;
        toml::from_str(&text).map_err(|error| ShimError::Config {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(&text, span.start)),
            reason: error.message().to_owned(),
        })
    }

    /// What `other` says goes over what this says.
    fn change(&mut self, other: Self) {
        let Self {
            cpus,
            memory,
            guest_memory,
            spare_cards,
            spare_roots,
            kernel,
            image,
            kernel_parameters,
            annotations,
        } = other;
        self.cpus = cpus.or(self.cpus);
        self.memory = memory.or(self.memory);
        self.guest_memory = guest_memory.or(self.guest_memory);
        self.spare_cards = spare_cards.or(self.spare_cards);
        self.spare_roots = spare_roots.or(self.spare_roots);
        self.kernel = kernel.or(self.kernel.take());
        self.image = image.or(self.image.take());
        self.kernel_parameters = kernel_parameters.or(self.kernel_parameters.take());
        self.annotations = annotations.or(self.annotations.take());
    }

    /// What a pod with these annotations is to have: what it chooses, where it may.
    pub fn for_pod<'a>(&self, annotation: impl Fn(&str) -> Option<&'a str>) -> Result<Chosen, ShimError> {
        let mut chosen = Chosen::default();
        for kind in Annotation::ALL {
            let Some(value) = annotation(kind.name()) else { continue };
            if !self.annotations.iter().flatten().any(|allowed| *allowed == kind) {
                return Err(ShimError::Unsupported {
                    what: format!("the annotation {}", kind.name()),
                    reason: "the host's configuration does not allow it (`annotations` in /etc/rvm/config.toml)",
                });
            }
            let invalid = |reason: String| ShimError::Invalid {
                what: "the pod's annotations",
                reason: format!("{}: {reason}", kind.name()),
            };
            match kind {
                Annotation::Cpus => {
                    let number: i64 =
                        value.parse().map_err(|_| invalid(format!("'{value}' is no number")))?;
                    chosen.cpus = Some(Cpus::try_from(number).map_err(invalid)?);
                }
                Annotation::Memory => {
                    let size: MemorySize =
                        value.parse().map_err(|error: rvm_config::UnitError| invalid(error.to_string()))?;
                    if size < MIN_MEMORY {
                        return Err(invalid(format!("a machine has at least {MIN_MEMORY}")));
                    }
                    chosen.memory = Some(size);
                }
                Annotation::KernelParameters => {
                    chosen.kernel_parameters = Some(Parameters::try_from(value.to_owned()).map_err(invalid)?);
                }
            }
        }
        Ok(chosen)
    }
}

/// What a pod chooses for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Processors of the machine.
    pub cpus: Option<Cpus>,
    /// All of the machine's memory.
    pub memory: Option<MemorySize>,
    /// Behind the configuration's.
    pub kernel_parameters: Option<Parameters>,
}

/// The configuration file that runtime options name: `runtimeoptions.v1.Options`, whose field 2 is `config_path`. Options
/// of other runtimes are none of ours.
pub fn path_in(options: &Any) -> Result<Option<PathBuf>, ShimError> {
    if !options.type_url.ends_with("runtimeoptions.v1.Options") {
        return Ok(None);
    }
    let invalid = |error: containerd_shim_protos::protobuf::Error| ShimError::Invalid {
        what: "the runtime options",
        reason: error.to_string(),
    };
    let mut input = CodedInputStream::from_bytes(&options.value);
    let mut path = None;
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(invalid)? {
        match (tag >> 3, tag & 7) {
            (2, 2) => path = Some(input.read_string().map_err(invalid)?).filter(|path| !path.is_empty()),
            (3, 2) if !input.read_bytes().map_err(invalid)?.is_empty() => {
                return Err(ShimError::Unsupported {
                    what: "runtime options without a file (ConfigBody)".to_owned(),
                    reason: "write them to a file, and name that by ConfigPath",
                });
            }
            (3, 2) => {}
            (_, 2) => drop(input.read_bytes().map_err(invalid)?),
            (_, 0) => drop(input.read_uint64().map_err(invalid)?),
            (field, _) => {
                let reason = format!("field {field} is none of runtimeoptions.v1.Options");
                return Err(ShimError::Invalid { what: "the runtime options", reason });
            }
        }
    }
    Ok(path.map(PathBuf::from))
}

/// The line, from 1, in which byte `at` of a text is.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn drop_ins_go_over_the_main_file_key_by_key() {
        let (directory, main) = written("cpus = 2\nmemory = \"1G\"\nannotations = [\"io.rvm.cpus\"]\n");
        let drop_ins = directory.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("20.toml"), "memory = \"3G\"\n").unwrap();
        fs::write(drop_ins.join("10.toml"), "memory = \"2G\"\nkernel = \"/boot/other\"\n").unwrap();
        fs::write(drop_ins.join("README"), "no TOML").unwrap();
        let config = Config::of_host(&main, &drop_ins).unwrap();
        assert_eq!((config.cpus, config.memory), (Some(Cpus(2)), Some(MemorySize::from_mib(3072))));
        assert_eq!(config.kernel, Some("/boot/other".into()));
        assert_eq!(config.annotations, Some(vec![Annotation::Cpus]));
        let nowhere = directory.path().join("none");
        assert_eq!(Config::of_host(&nowhere, &nowhere).unwrap(), Config::default());
        assert!(Config::load(Some(&nowhere)).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_key() {
        for (text, line, words) in [
            ("cpus = 1\nmemroy = \"1G\"\n", 2, "memroy"),
            ("\n\ncpus = 33\n", 3, "1 to 32"),
            ("memory = \"lots\"\n", 1, "lots"),
            ("kernel-parameters = \"a -- b\"\n", 1, "'--'"),
            ("annotations = [\"io.rvm.kernel\"]\n", 1, "io.rvm.kernel"),
            ("cpus = \n", 1, ""),
        ] {
            let (_directory, path) = written(text);
            let error = Config::load(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}:")) && error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_pod_chooses_what_it_may_and_is_told_of_the_rest() {
        let config: Config = toml::from_str("annotations = [\"io.rvm.cpus\", \"io.rvm.memory\"]").unwrap();
        let pod = |name: &'static str, value: &'static str| {
            config.for_pod(move |wanted| (wanted == name).then_some(value)).map_err(|error| error.to_string())
        };
        assert_eq!(pod("other", "7").unwrap(), Chosen::default());
        assert_eq!(pod("io.rvm.cpus", "4").unwrap().cpus, Some(Cpus(4)));
        assert_eq!(pod("io.rvm.memory", "2G").unwrap().memory, Some(MemorySize::from_mib(2048)));
        for (name, value, words) in [
            ("io.rvm.kernel-parameters", "quiet", "does not allow it"),
            ("io.rvm.cpus", "0", "1 to 32"),
            ("io.rvm.cpus", "many", "no number"),
            ("io.rvm.memory", "1M", "at least"),
        ] {
            let error = pod(name, value).unwrap_err();
            assert!(error.contains(name) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_annotation_of_ours_that_there_is_not_is_told_with_those_that_there_are() {
        assert!(check_annotations(["io.rvm.cpus", "io.rvmother", "memory"]).is_ok());
        let error = check_annotations(["io.rvm.cpus", "io.rvm.cpu"]).unwrap_err().to_string();
        assert!(error.contains("'io.rvm.cpu'") && error.contains("io.rvm.cpus, io.rvm.memory"), "{error}");
    }

    #[test]
    fn runtime_options_name_the_file() {
        let options = |value: &[u8]| Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            value: value.to_vec(),
            ..Any::default()
        };
        // type_url = 1, config_path = 2, config_body = 3.
        let path = path_in(&options(b"\x0a\x01x\x12\x04/etc\x1a\x00")).unwrap();
        assert_eq!(path, Some("/etc".into()));
        assert_eq!(path_in(&options(b"")).unwrap(), None);
        assert!(path_in(&options(b"\x12\x09/etc")).is_err());
        let error = path_in(&options(b"\x1a\x02ab")).unwrap_err().to_string();
        assert!(error.contains("ConfigBody"), "{error}");
        let runc = Any { type_url: "containerd.runc.v1.Options".to_owned(), ..options(b"\x38\x01") };
        assert_eq!(path_in(&runc).unwrap(), None);
    }
}
