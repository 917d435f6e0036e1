//! OCI images: from a registry or files, to file systems that a guest can mount.
//!
//! ```text
//! name ─> origin (registry, layout) ─> blobs, digests checked ─> layers as erofs images ─> Image, layers held
//! ```
//!
//! All of it is blocking, and quick when an image is in the store: nothing but small files is read. Layers are
//! fetched and converted on threads of their own. Everything that an image says is data from a stranger: no part of it
//! becomes a path on the host, and what it makes the host write is bounded.

pub mod digest;
mod directory;
pub mod erofs;
mod image;
mod import;
pub mod layer;
mod layout;
mod list;
mod load;
mod manifest;
mod options;
mod origin;
mod progress;
mod reference;
mod registry;
mod save;
pub mod store;
pub mod tar;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use directory::DirectoryError;
pub use image::{Image, ImageError, Layer, Limits, PullPolicy, resolve};
pub use list::{Listed, find, list};
pub use load::load;
pub use manifest::{ManifestError, Platform};
pub use options::{Options, OptionsError};
pub use origin::OriginError;
pub use progress::{Progress, Quiet, Step};
pub use reference::{ImageSource, Reference, ReferenceError, Version};
pub use registry::{RegistryError, RegistryOptions};
pub use save::{SaveError, save};
pub use store::{Hold, HoldError, Store, StoreError};
