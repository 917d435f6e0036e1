//! `start`: finds the shim of the container's pod, or starts it, and answers with its address.
//!
//! The socket is bound here and handed to the daemon as its standard input, so that containerd can connect as soon as
//! it has the answer. Its name is the hash that containerd's own shims use, of containerd's address, the namespace and
//! the pod: whoever asks for the same pod comes to the same socket.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::bootstrap::Bootstrap;
use crate::config;
use crate::error::ShimError;
use crate::flags::Flags;
use crate::log::Level;
use crate::place::{Place, gone};
use crate::spec::{ContainerSpec, NetworkNamespace};

/// Where the sockets of shims are, unless containerd says otherwise.
const SOCKETS: &str = "/run/containerd/s";

/// Where a daemon publishes events.
pub const EVENTS_ADDRESS: &str = "TTRPC_ADDRESS";

/// From which level on a daemon's log has lines, by its name.
pub const LOG_LEVEL: &str = "RVM_SHIM_LOG_LEVEL";

/// Which configuration a daemon's sandbox has, where that is not the host's.
pub const CONFIG_PATH: &str = "RVM_SHIM_CONFIG";

/// The file in the bundle by which a containerd that is started again finds the shim.
const ADDRESS_FILE: &str = "address";

/// The file in a container's bundle by which containerd says in which sandbox it is.
const SANDBOX_FILE: &str = "sandbox";

/// Most bytes of what containerd says on standard input: options, and the annotations of a pod.
const MAX_INPUT: u64 = 4 << 20;

/// Finds or starts the pod's shim; gives the answer for standard output.
pub fn start(flags: &Flags, bundle: &Path) -> Result<Vec<u8>, ShimError> {
    let mut input = Vec::new();
    io::stdin()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .map_err(ShimError::host("read what containerd says"))?;
    let bootstrap = Bootstrap::parse(&input, flags);
    let spec = ContainerSpec::read_any(bundle)?;
    let pod = pod_of(bundle, spec.as_ref(), &flags.id);
    let path = match spec.as_ref().and_then(|spec| other_pod(flags, spec)) {
        Some(path) => path,
        None => {
            let path = socket_path(bootstrap.socket_directory(), flags, &pod);
            if let Some(listener) = listen(&path)? {
                spawn(flags, bundle, &pod, &bootstrap, listener)?;
            }
            path
        }
    };
    let address = format!("unix://{}", path.display());
    let file = bundle.join(ADDRESS_FILE);
    fs::write(&file, &address).map_err(ShimError::path("write", file))?;
    bootstrap.answer(&address).map_err(ShimError::host("write the answer"))
}

/// The shim of the pod whose network a container without a pod is to share, as with `docker run --network
/// container:NAME`: who shares a network shares the machine.
fn other_pod(flags: &Flags, spec: &ContainerSpec) -> Option<PathBuf> {
    match (spec.pod(), spec.network()) {
        (None, Ok(NetworkNamespace::At(network))) => Place::shim_in_network(&flags.namespace, &network),
        _ => None,
    }
}

/// The pod of a bundle's container, which is `own` where nothing says otherwise: the sandbox that containerd put it into, or
/// what its specification says.
pub fn pod_of<'a>(bundle: &Path, spec: Option<&'a ContainerSpec>, own: &'a str) -> Cow<'a, str> {
    match fs::read_to_string(bundle.join(SANDBOX_FILE)) {
        Ok(sandbox) if !sandbox.is_empty() => sandbox.into(),
        _ => spec.and_then(ContainerSpec::pod).unwrap_or(own).into(),
    }
}

fn socket_path(directory: Option<&str>, flags: &Flags, pod: &str) -> PathBuf {
    let named = Path::new(&flags.address).join(&flags.namespace).join(pod);
    let hash = Sha256::digest(named.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(directory.unwrap_or(SOCKETS)).join(name)
}

/// Binds the pod's socket; `None`: somebody serves it already.
fn listen(path: &Path) -> Result<Option<UnixListener>, ShimError> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(ShimError::path("make the directory", directory))?;
    }
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => match UnixStream::connect(path) {
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                // Its shim is dead.
                fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            Err(error) => Err(error),
        },
        bound => bound,
    };
    let listener = bound.map_err(ShimError::path("listen at", path))?;
    let owner_only = fs::set_permissions(path, Permissions::from_mode(0o600));
    owner_only.map_err(ShimError::path("protect", path))?;
    Ok(Some(listener))
}

/// Removes the socket that the bundle names, if nobody serves it any more. Whether somebody does.
pub fn forget(bundle: &Path) -> Result<bool, ShimError> {
    // Without the file there is none.
    let address = fs::read_to_string(bundle.join(ADDRESS_FILE)).unwrap_or_default();
    let Some(path) = address.strip_prefix("unix://") else { return Ok(false) };
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            gone(fs::remove_file(path)).map_err(ShimError::path("remove", path))?;
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}

fn spawn(
    flags: &Flags,
    bundle: &Path,
    pod: &str,
    bootstrap: &Bootstrap,
    listener: UnixListener,
) -> Result<(), ShimError> {
    let program = std::env::current_exe().map_err(ShimError::host("find the shim's program"))?;
    let mut command = Command::new(program);
    command.args(["-namespace", &flags.namespace, "-id", pod, "-address", &flags.address]);
    let level = if flags.debug { Level::Debug } else { bootstrap.log_level().unwrap_or_default() };
    command.env(LOG_LEVEL, level.name());
    if let Some(address) = bootstrap.events_address() {
        command.env(EVENTS_ADDRESS, address);
    }
    // A container brings its options along when it is created, a sandbox does not.
    match bootstrap.runtime_options().map_or(Ok(None), config::path_in)? {
        Some(path) => command.env(CONFIG_PATH, path),
        None => command.env_remove(CONFIG_PATH),
    };
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir(bundle);
    #[allow(
        clippy::zombie_processes,
        reason = "the daemon outlives this process and is somebody else's child then"
    )]
    let daemon = command.spawn().map_err(ShimError::host("start the shim's daemon"))?;
    less_precious_than_containerd(daemon.id());
    Ok(())
}

/// When memory runs out, containerd is to survive its shims.
fn less_precious_than_containerd(daemon: u32) {
    let score = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).ok()?;
        text.trim().parse::<i32>().ok()
    };
    let parent = std::os::unix::process::parent_id();
    if let Some(score) = score(&parent.to_string()) {
        // What may not be set is as it was inherited.
        fs::write(format!("/proc/{daemon}/oom_score_adj"), (score + 1).min(1000).to_string()).ok();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_the_name_that_containerds_own_shims_would_give_it() {
        let address = "/run/containerd/containerd.sock".to_owned();
        let flags = Flags { namespace: "default".to_owned(), address, ..Flags::default() };
        // printf /run/containerd/containerd.sock/default/c1 | sha256sum
        let name = "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888";
        assert_eq!(socket_path(None, &flags, "c1"), Path::new(SOCKETS).join(name));
        assert_eq!(socket_path(Some("/run/s"), &flags, "c1"), Path::new("/run/s").join(name));
    }

    #[test]
    fn a_container_is_in_the_pod_that_containerd_put_it_into_or_that_it_names_or_its_own() {
        let bundle = tempfile::tempdir().unwrap();
        let named = serde_json::json!({ "annotations": { "io.kubernetes.cri.sandbox-id": "named" } }).into();
        assert_eq!(pod_of(bundle.path(), None, "c1"), "c1");
        assert_eq!(pod_of(bundle.path(), Some(&named), "c1"), "named");
        fs::write(bundle.path().join(SANDBOX_FILE), "put").unwrap();
        assert_eq!(pod_of(bundle.path(), Some(&named), "c1"), "put");
    }

    #[test]
    fn a_socket_is_bound_once_and_again_when_its_shim_is_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s/socket");
        let listener = listen(&path).unwrap().unwrap();
        assert!(listen(&path).unwrap().is_none());
        drop(listener);
        let listener = listen(&path).unwrap().unwrap();

        fs::write(directory.path().join(ADDRESS_FILE), format!("unix://{}", path.display())).unwrap();
        assert!(forget(directory.path()).unwrap());
        assert!(path.exists());
        drop(listener);
        assert!(!forget(directory.path()).unwrap());
        assert!(!path.exists());
    }
}
