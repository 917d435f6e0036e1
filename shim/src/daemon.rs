//! The daemon: serves the socket that `start` bound, until containerd has it shut down.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::r#async::{Server, Service};
use tokio::net::UnixListener;

use crate::error::ShimError;
use crate::events::Events;
use crate::flags::Flags;
use crate::log::{Level, Log};
use crate::place::{Place, gone};
use crate::sandbox_service::SandboxService;
use crate::service::TaskService;
use crate::shim::{Own, Shim};
use crate::start::{CONFIG_PATH, EVENTS_ADDRESS, LOG_LEVEL};
use crate::streaming;
use crate::tell::Teller;

/// The names that containerd calls the task service by, up to 1.7 and after.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How long the answer to the call that ends the shim has to be written: what ends the server does not wait for it, and
/// containerd takes a sandbox that was shut down without an answer for one that was not.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Serves the pod `flags.id` until it is over. Standard input is the socket.
pub fn serve(flags: &Flags, bundle: &Path) -> Result<(), ShimError> {
    // Whoever started containerd from a terminal may close it.
    nix::unistd::setsid().map_err(ShimError::host("begin a session"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ShimError::host("start"))?;
    let served = runtime.block_on(serve_pod(flags, bundle));
    // A file that hangs is not waited for.
    runtime.shutdown_background();
    served
}

async fn serve_pod(flags: &Flags, bundle: &Path) -> Result<(), ShimError> {
    let listener = inherited_listener().map_err(ShimError::host("take the socket over"))?;
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let level = std::env::var(LOG_LEVEL).ok().and_then(|name| Level::named(&name)).unwrap_or_default();
    let log = Log::open(bundle, &flags.id, level);
    let address = std::env::var(EVENTS_ADDRESS).unwrap_or_default();
    let teller = Teller(Events::open(address, flags.namespace.clone(), log.clone()));
    let place = Place::of(&flags.namespace, &flags.id);
    let own = Own {
        namespace: flags.namespace.clone(),
        id: flags.id.clone(),
        socket: socket.clone().unwrap_or_default(),
        config: std::env::var_os(CONFIG_PATH).map(PathBuf::from),
    };
    let shim = Arc::new(Shim::new(place, own, teller, log.clone()));

    let mut server = Server::new().add_listener(listener.into()).register_service(services(&shim));
    server.start().await.map_err(serving)?;
    log.debug("", format_args!("the shim serves as process {}", std::process::id()));
    shim.over().await;
    log.debug("", "the shim ends");
    // Whoever starts a pod of this name from now on starts a shim for it.
    let removed = socket
        .map_or(Ok(()), |socket| gone(fs::remove_file(&socket)).map_err(ShimError::path("remove", socket)));
    shim.everything_told().await;
    tokio::time::sleep(LAST_ANSWER).await;
    server.shutdown().await.map_err(serving)?;
    removed
}

fn serving(error: containerd_shim_protos::ttrpc::Error) -> ShimError {
    ShimError::Host { attempt: "serve containerd", source: io::Error::other(error) }
}

/// The task service, which is one under both of its names, that of sandboxes, and that of streams.
fn services(shim: &Arc<Shim>) -> HashMap<String, Service> {
    let named = |name: &str| {
        let service = create_task(Arc::new(TaskService(shim.clone()))).into_values().next();
        service.map(|service| (name.to_owned(), service))
    };
    let sandboxes = create_sandbox(Arc::new(SandboxService(shim.clone())));
    NAMES.into_iter().filter_map(named).chain(sandboxes).chain([streaming::service(&shim.streams)]).collect()
}

/// The socket on standard input.
fn inherited_listener() -> io::Result<UnixListener> {
    let listener = StdUnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // No process that is started later has it.
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
