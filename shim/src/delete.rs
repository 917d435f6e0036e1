//! `delete`: removes what a container or a sandbox left whose shim is gone. Where the shim is well, only the container's own mounts.

use std::path::Path;
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::error::ShimError;
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
    start::forget(bundle)?;
    let answer = DeleteResponse {
        exit_status: KILLED,
        exited_at: MessageField::some(SystemTime::now().into()),
        ..DeleteResponse::default()
    };
    answer.write_to_bytes().map_err(ShimError::host("write the answer"))
}
