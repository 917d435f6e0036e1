//! `rvm run`: from an image to a container that runs, attached to this terminal or in the background.
//!
//! ```text
//!  flags ─> image (pulled if need be) ─> Record ─> directory of the sandbox ─> supervisor ─> attach
//! ```

mod args;
pub mod environment;
mod spec;
pub mod values;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rvm_config::{MemorySize, SHARED_FILE};
use rvm_sandbox::images::{self, ImageError, ImageSource, Options, Store, StoreError};
use rvm_sandbox::rootfs::ROOTFS;

pub use args::RunArgs;
pub use values::Size;

use super::attach::{self, AttachError, Attached};
use super::container::signals;
use super::images::Shown;
use crate::logging;
use crate::state::{Alive, Directory, ImageRecord, Record, Runtime, StateError, UserRecord, Volume, short};
use crate::supervisor::protocol::Request;
use crate::supervisor::{STATUS_FAILED, share_target};
use crate::time::Timestamp;
use values::{Cpus, VolumeMount, VolumeSource};

/// Memory of the VM beyond what the container may have: the guest's kernel and agent.
const GUEST_MEMORY: u64 = 64 << 20;
/// Longest name of a container.
const MAX_NAME: usize = 64;
/// Memory of the container where none is named.
const DEFAULT_MEMORY: Size = Size(384 << 20);

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Where images are kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where sandboxes are kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The supervisor, or what it says.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Nothing to run.
    #[error("image '{0}' has no command of its own; give one after the image's name")]
    NoCommand(String),
    /// No such capability.
    #[error("there is no capability '{0}'; names are as in capabilities(7), or ALL")]
    Capability(String),
    /// Not a variable.
    #[error("'{0}' is no environment variable; NAME=VALUE or NAME is expected")]
    Variable(String),
    /// Not a kernel parameter.
    #[error("'{0}' is no kernel parameter; NAME=VALUE is expected")]
    Sysctl(String),
    /// A file of variables that cannot be read.
    #[error("cannot read the environment file '{}'", .path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A profile that cannot be used.
    #[error("cannot use the seccomp profile '{}': {reason}", .path.display())]
    Seccomp {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A value of a flag.
    #[error("{0}")]
    Value(String),
    /// A volume that is not there.
    #[error("cannot share '{}'", .path.display())]
    Volume {
        /// On the host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A terminal for the command, where this process has none.
    #[error("cannot give the command a terminal: standard input is none; leave out -t")]
    NoTerminal,
    /// The host.
    #[error("cannot {attempt}")]
    Host {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs a container; gives the exit status: the command's own, or 125 to 127.
pub fn run(args: RunArgs) -> u8 {
    logging::start();
    match create_and_attach(args) {
        Ok(status) => status,
        Err(RunError::Attach(AttachError::Refused { message, status })) => {
            logging::say_all(&message);
            status
        }
        Err(error) => {
            logging::say(&logging::chain(&error));
            STATUS_FAILED
        }
    }
}

fn create_and_attach(args: RunArgs) -> Result<u8, RunError> {
    if args.tty && args.interactive && !args.detach && !nix::unistd::isatty(io::stdin()).unwrap_or_default() {
        return Err(RunError::NoTerminal);
    }
    let store = Store::open(&Store::default_root())?;
    let image = resolve(&store, &args)?;
    let record = record(&args, &store, &image)?;
    let runtime = Runtime::open()?;
    let (directory, alive) = runtime.add(&record)?;
    let supervisor = match start_supervisor(&directory, alive) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            // The first error is the one to tell.
            directory.remove().ok();
            return Err(error);
        }
    };
    // The layers are held here until the supervisor holds them, which it does before it says anything.
    let size = (args.tty && !args.detach).then(attach::terminal_size).flatten();
    let attached = Attached::request(supervisor, &Request::Attach { size })?;
    match args.detach {
        true => {
            attached.started()?;
            super::print(&format!("{}\n", record.id)).map_err(host("print the container's id"))?;
            Ok(0)
        }
        false => {
            let input = args.interactive;
            Ok(attached.carry(input, args.tty && input, memory(&args)?)?)
        }
    }
}

/// For `map_err`: the host's refusal of `attempt`.
fn host(attempt: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Host { attempt, source }
}

/// The image, in the store.
fn resolve(store: &Store, args: &RunArgs) -> Result<images::Image, RunError> {
    let source: ImageSource = args.image.parse().map_err(ImageError::from)?;
    let mut options = Options::from_environment().map_err(ImageError::from)?;
    options.policy = args.pull.0;
    Ok(images::resolve(store, &source, &options, &Shown::of_run())?)
}

fn record(args: &RunArgs, store: &Store, image: &images::Image) -> Result<Record, RunError> {
    let id = new_id().map_err(host("read /dev/urandom"))?;
    let volumes = args.volume.iter().map(|mount| volume(store, mount)).collect::<Result<Vec<_>, _>>()?;
    let hostname = args.hostname.clone().unwrap_or_else(|| short(&id).to_owned());
    let memory = memory(args)?;
    let binds = volumes.iter().enumerate().map(|(number, volume)| {
        (place_in_guest(number, volume), volume.destination.clone(), volume.read_only)
    });
    let placed = spec::Placed { hostname: &hostname, rootfs: ROOTFS, binds: binds.collect(), memory };
    let spec = spec::spec(args, &image.config, placed)?;
    let (common, value) = spec::GUEST_SYSCTL;
    let mut sysctls = spec::sysctls(&args.sysctl)?;
    sysctls.retain(|name, _| spec::is_of_guest(name));
    sysctls.entry(common.to_owned()).or_insert_with(|| value.to_owned());
    let stop_signal = args.stop_signal.clone().or_else(|| image.config.stop_signal().clone());
    let stop_signal = stop_signal.as_deref().map_or(Ok(libc::SIGTERM), signals::parse);
    let storage_size = args.storage_size.map(Size::is_storage).transpose().map_err(RunError::Value)?;
    let vm_memory = (memory.0 + GUEST_MEMORY).div_ceil(1 << 20).max(rvm_config::MIN_MEMORY.mib().into());
    Ok(Record {
        name: name(args, &id)?,
        data: store.root().join("containers").join(&id),
        id,
        created: Timestamp::now(),
        image: ImageRecord {
            reference: image.reference.clone(),
            digest: image.digest.to_string(),
            layers: image.layers.iter().map(|layer| layer.erofs.clone()).collect(),
        },
        spec,
        user: UserRecord {
            user: args.user.clone().or_else(|| image.config.user().clone()).unwrap_or_default(),
            groups: args.group_add.clone(),
        },
        cpus: args.cpus.unwrap_or(Cpus::ONE).vcpus(),
        memory: MemorySize::from_mib(u32::try_from(vm_memory).unwrap_or(u32::MAX)),
        hostname,
        network: args.network.map(|network| network.0).unwrap_or_default(),
        network_required: args.network.is_some(),
        publish: args.publish.iter().flat_map(|ports| ports.0.clone()).collect(),
        dns: args.dns.clone(),
        volumes,
        sysctls,
        storage_size: storage_size.map(|size| size.0),
        tty: args.tty,
        interactive: args.interactive,
        remove: args.rm,
        stop_signal: stop_signal.map_err(RunError::Value)?,
        timeout: args.timeout,
    })
}

/// The name asked for, or one of its own.
fn name(args: &RunArgs, id: &str) -> Result<String, RunError> {
    let Some(name) = &args.name else { return Ok(format!("rvm-{}", short(id))) };
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match first && fits && name.len() <= MAX_NAME {
        true => Ok(name.clone()),
        false => Err(RunError::Value(format!(
            "'{name}' is no name for a container: at most {MAX_NAME} letters, digits and _.- are expected, the first \
             one a letter or digit"
        ))),
    }
}

fn memory(args: &RunArgs) -> Result<Size, RunError> {
    args.memory.unwrap_or(DEFAULT_MEMORY).is_memory().map_err(RunError::Value)
}

/// What is shared of the host: a directory or file that is there, or a directory that the store keeps under a name.
fn volume(store: &Store, mount: &VolumeMount) -> Result<Volume, RunError> {
    let path = match &mount.source {
        VolumeSource::Path(path) => path.clone(),
        VolumeSource::Named(name) => {
            let path = store.root().join("volumes").join(name);
            std::fs::create_dir_all(&path)
                .map_err(|source| RunError::Volume { path: path.clone(), source })?;
            path
        }
    };
    let source = path.canonicalize().map_err(|source| RunError::Volume { path: path.clone(), source })?;
    let file = source.is_file();
    if !file && !source.is_dir() {
        let source = io::Error::other("only directories and regular files can be shared with a VM");
        return Err(RunError::Volume { path, source });
    }
    Ok(Volume { source, file, destination: mount.destination.clone(), read_only: mount.read_only })
}

/// Where a volume is in the guest before it is the container's.
fn place_in_guest(number: usize, volume: &Volume) -> String {
    match volume.file {
        true => format!("{}/{SHARED_FILE}", share_target(number)),
        false => share_target(number),
    }
}

fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    rvm_sandbox::random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Starts the supervisor of the sandbox; gives the connection that it is born with.
fn start_supervisor(directory: &Directory, alive: Alive) -> Result<UnixStream, RunError> {
    let (ours, theirs) = UnixStream::pair().map_err(host("make a socket to the supervisor"))?;
    let program = std::env::current_exe().map_err(host("find the rvm program"))?;
    let words = directory.path().join("supervisor.log");
    let words = std::fs::File::create(&words).map_err(host("make the supervisor's log"))?;
    let mut command = Command::new(program);
    command.arg("supervise").arg(directory.path()).stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(alive).stderr(words).current_dir(Path::new("/"));
    command.spawn().map_err(host("start the supervisor"))?;
    Ok(ours)
}
