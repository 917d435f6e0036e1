//! `-info`: what the shim is, for `ctr plugins inspect-runtime` and for containerd before it mounts anything.

use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

/// The runtime's name, as users write it.
pub const NAME: &str = "io.containerd.rvm.v2";

/// The answer for standard output.
pub fn info() -> protobuf::Result<Vec<u8>> {
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..RuntimeVersion::default() };
    let info =
        RuntimeInfo { name: NAME.to_owned(), version: MessageField::some(version), ..RuntimeInfo::default() };
    info.write_to_bytes()
}
