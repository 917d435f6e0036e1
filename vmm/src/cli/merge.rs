//! From the words of the command line to a [`VmConfig`]: the configuration file first, flags over it.
//!
//! A flag replaces what the file says; `--disk`, `--share` and `--net` add to it.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use rvm_config::{Balloon, Console, Control, Disk, MAX_CPUS, MemorySize, Net, Share, VmConfig, Vsock};

/// The flags of `rvm boot`.
#[derive(Args, Debug, Default)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct BootArgs {
    /// Read the machine from a JSON file; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kernel: an ELF vmlinux or a bzImage [default: the kernel that comes with rvm]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM file system [default: the guest image that comes with rvm, unless --kernel is given]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words for the kernel command line, after rvm's own
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Leave out rvm's own part of the kernel command line
    #[arg(long)]
    bare_cmdline: bool,
    /// Number of vCPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = cpus)]
    cpus: Option<u8>,
    /// Memory, as 256M or 2G, from 64M [default: 128M]
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<MemorySize>,
    /// Disk: PATH[,ro][,id=NAME][,engine=auto|io-uring|sync]; may be repeated
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<Disk>,
    /// Shared directory, or file: PATH,tag=NAME[,file][,ro][,cache=auto|never]; may be repeated
    #[arg(long = "share", value_name = "SHARE")]
    shares: Vec<Share>,
    /// Network card: TAP[,mac=ADDRESS][,mtu=N][,offload=off], or fd=N or socket-fd=N instead of TAP; may be repeated
    #[arg(long = "net", value_name = "NET")]
    nets: Vec<Net>,
    /// Socket device: SOCKET[,cid=N]
    #[arg(long, value_name = "VSOCK")]
    vsock: Option<Vsock>,
    /// Memory balloon: SIZE[,reporting=on|off][,deflate-on-oom=off] [default: 0M]
    #[arg(long, value_name = "BALLOON", conflicts_with = "no_balloon")]
    balloon: Option<Balloon>,
    /// No memory balloon
    #[arg(long)]
    no_balloon: bool,
    /// No entropy device
    #[arg(long)]
    no_rng: bool,
    /// Serial console: stdio, none, file=PATH, or captured for the control socket [default: stdio]
    #[arg(long, value_name = "WHERE")]
    console: Option<Console>,
    /// Control socket: fd=N, one end of a SOCK_SEQPACKET pair, inherited from whoever starts the VM
    #[arg(long, value_name = "CONTROL", hide = true)]
    control: Option<Control>,
    /// Do not confine the threads with seccomp filters (for debugging)
    #[arg(long)]
    no_seccomp: bool,
    /// Print the phases of the boot at the end, or write them to FILE as a Chrome trace
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub timing: Option<Option<PathBuf>>,
    /// Print counters of exits and devices at the end (SIGUSR1 prints them at any time)
    #[arg(long)]
    pub stats: bool,
    /// Print the machine as JSON, as --config reads it, and do not boot it
    #[arg(long)]
    pub print_config: bool,
    /// Command that the guest runs instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Why the command line means no machine.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The configuration file cannot be read.
    #[error("cannot read configuration '{path}': {reason}; give the path of a file that you may read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's.
        reason: io::Error,
    },
    /// It is longer than any configuration.
    #[error("cannot read configuration '{0}': it is longer than {LONGEST} bytes; is it the right file?")]
    Long(PathBuf),
    /// It is no configuration.
    #[error(
        "cannot use configuration '{path}': {reason}; correct it (`rvm boot --print-config` shows what it looks like)"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// An argument that a kernel command line cannot carry.
    #[error(
        "cannot pass the argument {0:?} to the guest's command: the kernel command line takes printable ASCII \
         without double quotes, and no '--' alone; put the command into a script in the guest"
    )]
    Argument(String),
    /// More arguments than the kernel hands over.
    #[error(
        "cannot pass {0} arguments to the guest's command: the kernel hands over at most {MAX_ARGUMENTS}; put the \
         command into a script in the guest"
    )]
    Arguments(usize),
}

/// A configuration is some lines; this bounds what is read of a device that never ends.
const LONGEST: u64 = 1 << 20;

/// What the kernel hands to its first process, which takes one itself (CONFIG_INIT_ENV_ARG_LIMIT).
const MAX_ARGUMENTS: usize = 31;

impl BootArgs {
    /// The machine that the arguments mean. Not validated.
    pub fn machine(&self) -> Result<VmConfig, MergeError> {
        let mut machine = self.config.as_ref().map_or_else(|| Ok(VmConfig::default()), read)?;
        self.set_kernel(&mut machine)?;
        machine.cpus = self.cpus.unwrap_or(machine.cpus);
        machine.memory = self.memory.unwrap_or(machine.memory);
        machine.disks.extend_from_slice(&self.disks);
        machine.shares.extend_from_slice(&self.shares);
        machine.nets.extend_from_slice(&self.nets);
        machine.vsock = self.vsock.clone().or(machine.vsock);
        machine.balloon = self.balloon.clone().or(machine.balloon).filter(|_| !self.no_balloon);
        machine.rng &= !self.no_rng;
        machine.console = self.console.clone().unwrap_or(machine.console);
        machine.seccomp &= !self.no_seccomp;
        machine.control = self.control.clone().or(machine.control);
        Ok(machine)
    }

    fn set_kernel(&self, machine: &mut VmConfig) -> Result<(), MergeError> {
        let kernel = &mut machine.kernel;
        if self.kernel.is_some() {
            // A kernel of one's own does not get an initrd that was meant for another.
            (kernel.image, kernel.initrd) = (self.kernel.clone(), self.initrd.clone());
        }
        kernel.initrd = self.initrd.clone().or(kernel.initrd.take());
        kernel.bare_cmdline |= self.bare_cmdline;
        if let Some(cmdline) = &self.cmdline {
            kernel.cmdline.clone_from(cmdline);
        }
        if !self.command.is_empty() {
            let words = for_init(&self.command)?;
            let kernels_own = kernels_own(&kernel.cmdline);
            kernel.cmdline = format!("{kernels_own} -- {words}").trim_start().to_owned();
        }
        Ok(())
    }
}

fn read(path: &PathBuf) -> Result<VmConfig, MergeError> {
    let mut text = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text));
    file.map_err(|reason| MergeError::Read { path: path.clone(), reason })?;
    if text.len() as u64 > LONGEST {
        return Err(MergeError::Long(path.clone()));
    }
    serde_json::from_slice(&text)
        .map_err(|error| MergeError::Parse { path: path.clone(), reason: error.to_string() })
}

/// The number of vCPUs; what is out of bounds of the type is out of bounds of the machine.
fn cpus(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("a VM has 1 to {MAX_CPUS}"))
}

/// What stands before `--` in a kernel command line; behind it is the command of the first process.
fn kernels_own(cmdline: &str) -> &str {
    let (mut quoted, mut start) = (false, 0);
    for (at, character) in cmdline.char_indices().chain([(cmdline.len(), ' ')]) {
        quoted ^= character == '"';
        if character == ' ' && !quoted {
            if &cmdline[start..at] == "--" {
                return cmdline[..start].trim_end();
            }
            start = at + 1;
        }
    }
    cmdline
}

/// The command as the kernel takes it apart again: words with spaces in double quotes.
fn for_init(command: &[String]) -> Result<String, MergeError> {
    if command.len() > MAX_ARGUMENTS {
        return Err(MergeError::Arguments(command.len()));
    }
    // The kernel ends what it hands over at a word `--`, in quotes or not.
    let fits =
        |word: &str| word != "--" && word.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"');
    let quote = |word: &String| match fits(word) {
        true if word.is_empty() || word.contains(' ') => Ok(format!("\"{word}\"")),
        true => Ok(word.clone()),
        false => Err(MergeError::Argument(word.clone())),
    };
    Ok(command.iter().map(quote).collect::<Result<Vec<_>, _>>()?.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BootArgs,
    }

    fn args(line: &str) -> BootArgs {
        Line::try_parse_from(std::iter::once("boot").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn no_flags_mean_the_default_machine() {
        assert_eq!(args("").machine().unwrap(), VmConfig::default());
    }

    #[test]
    fn every_flag_reaches_the_machine() {
        let line = "--kernel k --initrd i --bare-cmdline --cpus 2 -m 1G --disk a,ro --disk b --share d,tag=t --net tap0 \
                    --vsock s --balloon 16M --no-rng --console none --control fd=9 --no-seccomp -- sh -c ls";
        let machine = args(line).machine().unwrap();
        let expected: VmConfig = serde_json::from_str(
            r#"{"kernel": {"image": "k", "initrd": "i", "bare_cmdline": true, "cmdline": "-- sh -c ls"}, "cpus": 2,
                "memory": "1G", "disks": [{"path": "a", "read_only": true}, {"path": "b"}],
                "shares": [{"path": "d", "tag": "t"}], "nets": [{"tap": {"name": "tap0"}}],
                "vsock": {"socket": "s"}, "balloon": {"size": 16}, "rng": false, "console": "none",
                "control": {"fd": 9}, "seccomp": false}"#,
        )
        .unwrap();
        assert_eq!(machine, expected);
        assert_eq!(args("--no-balloon").machine().unwrap().balloon, None);
    }

    #[test]
    fn words_with_spaces_stay_one_argument() {
        let command = ["sh", "-c", "echo a b", ""].map(String::from);
        assert_eq!(for_init(&command).unwrap(), r#"sh -c "echo a b" """#);
        assert!(matches!(for_init(&["a\"b".into()]), Err(MergeError::Argument(_))));
        assert!(matches!(for_init(&["a\nb".into()]), Err(MergeError::Argument(_))));
        assert!(matches!(for_init(&["--".into()]), Err(MergeError::Argument(_))));
        assert!(matches!(for_init(&vec![String::from("a"); 32]), Err(MergeError::Arguments(32))));
    }

    #[test]
    fn a_command_replaces_the_one_of_the_file() {
        for (cmdline, own) in [
            ("quiet -- ls -l", "quiet"),
            ("-- ls", ""),
            ("quiet --", "quiet"),
            ("x=\"a -- b\" --y", "x=\"a -- b\" --y"),
        ] {
            assert_eq!(kernels_own(cmdline), own, "{cmdline}");
        }
        let args = args("--cmdline -- -- true");
        assert_eq!(args.machine().unwrap().kernel.cmdline, "-- true");
    }

    #[test]
    fn a_kernel_flag_drops_the_files_initrd() {
        let file = std::env::temp_dir().join(format!("rvm-merge-{}.json", std::process::id()));
        std::fs::write(&file, r#"{"kernel": {"image": "a", "initrd": "b"}, "cpus": 4}"#).unwrap();
        let line = format!("--config {} --kernel k", file.display());
        let machine = args(&line).machine();
        std::fs::remove_file(&file).unwrap();
        let machine = machine.unwrap();
        assert_eq!((machine.kernel.image, machine.kernel.initrd), (Some("k".into()), None));
        assert_eq!(machine.cpus, 4);
    }
}
