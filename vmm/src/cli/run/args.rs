//! The flags of `rvm run`, as typed. Docker's words, where Docker has them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use rvm_sandbox::network::Ports;

use super::values::{Cpus, Network, Pull, SecurityOption, Size, TmpfsMount, Ulimit, VolumeMount};

/// The flags of `rvm run`.
#[derive(Args, Debug)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct RunArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// A name for the container [default: made up]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Set an environment variable, or (NAME alone) pass the one of this process on; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file, a line each; may be repeated
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Share a directory or file of the host, or a named volume: SOURCE:DESTINATION[:ro]; may be repeated
    #[arg(short, long, value_name = "VOLUME")]
    pub volume: Vec<VolumeMount>,
    /// Mount an empty file system in memory: DESTINATION[:OPTIONS]; may be repeated
    #[arg(long, value_name = "TMPFS")]
    pub tmpfs: Vec<TmpfsMount>,
    /// Publish a port: [IP:][HOST:]GUEST[/udp]; may be repeated
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<Ports>,
    /// Working directory of the command
    #[arg(short, long, value_name = "DIRECTORY")]
    pub workdir: Option<String>,
    /// User, and group, of the command: NAME|UID[:NAME|GID]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// One more group of the command; may be repeated
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Replace the image's entry point; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Processors, as 1 or 1.5 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub cpus: Option<Cpus>,
    /// Memory of the container, as 256M or 2G, at least 6M [default: 384M]
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory: Option<Size>,
    /// Processes that the container may have, -1 for no limit
    #[arg(long, value_name = "N", default_value_t = 2048, allow_negative_numbers = true)]
    pub pids_limit: i64,
    /// Network: default, or none
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<Network>,
    /// The container cannot write to its root file system
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability, or ALL; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=FILE, seccomp=unconfined, systempaths=unconfined; may be repeated
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<SecurityOption>,
    /// Set a resource limit: NAME=SOFT[:HARD]; may be repeated
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<Ulimit>,
    /// Set a kernel parameter of the guest: NAME=VALUE; may be repeated
    #[arg(long, value_name = "SYSCTL")]
    pub sysctl: Vec<String>,
    /// Host name [default: the container's id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Name server instead of the host's; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// When to ask the registry: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: Pull,
    /// The signal that asks the container to end [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Kill the container after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Size of /dev/shm [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<Size>,
    /// Keep what the container writes on a disk of this size instead of in memory
    #[arg(long, value_name = "SIZE")]
    pub storage_size: Option<Size>,
    /// Image: a name in a registry, oci:DIRECTORY, oci-archive:FILE, docker-archive:FILE, or dir:DIRECTORY
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Command, and its arguments, instead of the image's
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
