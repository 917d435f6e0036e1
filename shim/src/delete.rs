//! `delete`: removes what a container or a sandbox left whose shim is gone, and runs the hooks that its shim would have run.
//! Where the shim is well, only the container's own mounts are removed.

use std::path::Path;
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::error::{ShimError, chain};
use crate::flags::Flags;
use crate::place::{Place, unmount};
use crate::process::KILLED;
use crate::spec::ContainerSpec;
use crate::start;

/// Cleans up; gives the answer for standard output.
pub fn delete(flags: &Flags, bundle: &Path) -> Result<Vec<u8>, ShimError> {
    // A bundle without a specification belongs to a sandbox, or to a container that was never made.
    let spec = ContainerSpec::read(bundle).ok();
    let place = Place::of(&flags.namespace, &start::pod_of(bundle, spec.as_ref(), &flags.id));
    if place.exists()
        && let Some(_lock) = place.lock()?
    {
        place.remove()?;
    }
    unmount(&bundle.join("rootfs"))?;
    let is_served = start::forget(bundle)?;
    if let Some(spec) = spec.filter(|_| !is_served)
        && let Err(error) = run_poststop(&spec, &flags.id, bundle)
    {
        // Nothing is undone by that. containerd logs what is written here.
        eprintln!("containerd-shim-rvm-v2: {}", chain(&error));
    }
    let answer = DeleteResponse {
        exit_status: KILLED,
        exited_at: MessageField::some(SystemTime::now().into()),
        ..DeleteResponse::default()
    };
    answer.write_to_bytes().map_err(ShimError::host("write the answer"))
}

/// Runs the hooks behind the container's removal that have not run yet.
fn run_poststop(spec: &ContainerSpec, id: &str, bundle: &Path) -> Result<(), ShimError> {
    let hooks = spec.hooks()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ShimError::host("start"))?.block_on(hooks.settle(id, bundle))
}
