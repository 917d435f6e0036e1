//! `-info`: what the shim is, for `ctr plugins inspect-runtime` and for containerd before it mounts anything.

use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

/// The runtime's name, as users write it.
pub const NAME: &str = "io.containerd.rvm.v2";

/// What of a snapshotter's mounts containerd leaves to the shim (2.2 and later): images in place of loop devices, and the
/// templates that name them ([`crate::images`]).
const ALLOWED_MOUNTS: (&str, &str) = ("containerd.io/runtime-allow-mounts", "mkdir/*,format/*,erofs");

/// The answer for standard output.
pub fn info() -> protobuf::Result<Vec<u8>> {
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..RuntimeVersion::default() };
    let (key, value) = ALLOWED_MOUNTS;
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(version),
        annotations: [(key.to_owned(), value.to_owned())].into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes()
}
