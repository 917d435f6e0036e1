//! The commands about images: `pull`, `images`, `rmi`, `load`, `save`, `prune`. Words and flags are Docker's.
//!
//! What they do is in `rvm_sandbox::images`; here it is asked for and shown. The status is 0, or 1 if anything could
//! not be done.

mod archive;
mod list;
mod progress;
mod pull;
mod remove;

pub use archive::{LoadArgs, SaveArgs, load, save};
pub use list::{ImagesArgs, images};
pub use progress::Shown;
pub use pull::{PullArgs, pull};
pub use remove::{PruneArgs, RmiArgs, prune, rmi};

use std::error::Error;

use rvm_sandbox::images::{Store, StoreError};

use crate::logging::{chain, say};

/// Something could not be done.
const FAILED: u8 = 1;

/// The store that this user's images are in.
fn store() -> Result<Store, StoreError> {
    Store::open(&Store::default_root())
}

/// Tells why something could not be done; gives the status.
fn failed(error: &dyn Error) -> u8 {
    say(&chain(error));
    FAILED
}

/// The status of a command whose result has been told, but for an error.
fn status<E: Error>(result: Result<(), E>) -> u8 {
    result.map_or_else(|error| failed(&error), |()| 0)
}
